//! Names of the mesh: which services a host name may mean.

use causeway_model::{Name, ServiceKey};

/// The services that a host may mean: `NAME.NAMESPACE.mesh`, `NAME.mesh`. `None` when it is no name of the mesh.
pub(crate) fn mesh_names(host: &str, suffix: &str, own: &Name) -> Option<Vec<ServiceKey>> {
    let name = host.strip_suffix(suffix)?;
    let mut keys = Vec::new();
    if let Some((name, namespace)) = name.rsplit_once('.') {
        keys.extend(ServiceKey::parse(namespace, name).ok());
    }
    keys.extend(Name::new(name).ok().map(|name| ServiceKey::new(own.clone(), name)));
    Some(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mesh_names_mean_services() {
        let own = Name::default_namespace();
        let check = |host: &str, expected: &[&str]| {
            let names = mesh_names(host, ".mesh", &own).unwrap_or_default();
            assert_eq!(names.iter().map(ToString::to_string).collect::<Vec<_>>(), expected, "{host}");
        };
        check("cart.mesh", &["default/cart"]);
        check("cart.shop.mesh", &["shop/cart", "default/cart.shop"]);
        check("s.g.shop.mesh", &["shop/s.g", "default/s.g.shop"]);
        check("cart.example", &[]);
        assert!(mesh_names("cartmesh", ".mesh", &own).is_none());
        assert!(mesh_names(".mesh", ".mesh", &own).is_some_and(|names| names.is_empty()));
    }
}
