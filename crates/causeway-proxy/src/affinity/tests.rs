use std::sync::Arc;
use std::time::Duration;

use causeway_model::{Algorithm, Balancer, Locality, ServiceKey};
use http::Request;

use super::*;
use crate::balance::How;
use crate::endpoint::Endpoint;
use crate::token::Mint;

fn group(hash: Option<HashOn>) -> Group {
    let service = ServiceKey::parse("default", "cart").unwrap();
    let endpoints = (0..3).map(|id| {
        let endpoint = Endpoint::alone_for_test(id, 1);
        Arc::new(Endpoint { token: Some(Mint::new(b"x").token(&service, &endpoint.name)), ..endpoint })
    });
    let said = Balancer {
        algorithm: if hash.is_some() { Algorithm::Maglev } else { Algorithm::PeakEwma },
        hash,
        ..Balancer::default()
    };
    Group::build(endpoints.collect(), &[], How::new(Some(&said), &Locality::default()), None)
}

fn head(uri: &str, fields: &[(&str, &str)]) -> Head {
    let request =
        fields.iter().fold(Request::get(uri), |request, (name, value)| request.header(*name, *value));
    let parts = request.body(()).unwrap().into_parts().0;
    Head { method: parts.method, uri: parts.uri, headers: parts.headers }
}

fn inlet(way: Way, address: &str) -> Inlet {
    Inlet::new(way, Client::new(address.parse().unwrap(), None, false), 80, &Arc::default())
}

fn key(on: HashOn, uri: &str, fields: &[(&str, &str)]) -> Option<u64> {
    let inlet = inlet(Way::Outbound, "127.0.0.1");
    pull(&group(Some(on)), None, &head(uri, fields), &inlet, 7).key
}

#[test]
fn a_key_is_what_the_policy_names() {
    let header = |fields: &[(&str, &str)]| key(HashOn::Header("x-user".into()), "/", fields);
    assert_eq!(header(&[("x-user", "ann")]), Some(hash::text("ann")));
    assert_ne!(header(&[("x-user", "ann"), ("x-user", "bob")]), header(&[("x-user", "ann")]));
    assert_eq!(header(&[("x-other", "ann")]), None);
    let cookie = |line: &str| key(HashOn::Cookie("id".into()), "/", &[("cookie", line)]);
    for line in ["id=ann", "a=1; id=ann; b=2", "id=\"ann\"", " id=ann;id=bob", "xid=bob; id=ann"] {
        assert_eq!(cookie(line), Some(hash::text("ann")), "{line}");
    }
    assert_eq!(cookie("ID=ann"), None);
    let query = |uri: &str| key(HashOn::Query("user".into()), uri, &[]);
    for uri in ["/?user=ann", "/?a=1&user=ann&user=bob", "/?us%65r=a%6En"] {
        assert_eq!(query(uri), Some(hash::text("ann")), "{uri}");
    }
    assert_eq!(query("/?user=ann+lee"), query("/?user=ann%20lee"));
    assert_eq!((query("/"), query("/?user"), query("/?users=ann")), (None, Some(hash::text("")), None));
}

#[test]
fn a_source_is_the_client_at_a_gateway_and_the_proxy_itself_beside_an_app() {
    let of = |way: Way, address: &str| {
        let inlet = inlet(way, address);
        pull(&group(Some(HashOn::Source)), None, &head("/", &[]), &inlet, 7).key.unwrap()
    };
    let door = || Way::Gateway("10.0.0.1:80".parse().unwrap());
    assert_eq!(of(door(), "10.1.1.1"), of(door(), "::ffff:10.1.1.1"));
    assert_ne!(of(door(), "10.1.1.1"), of(door(), "10.1.1.2"));
    assert_eq!(of(Way::Outbound, "127.0.0.1"), 7);
    let no_key = pull(&group(None), None, &head("/", &[]), &inlet(door(), "10.1.1.1"), 7);
    assert!(no_key.key.is_none() && no_key.stay.is_none(), "nothing is read where no policy asks for it");
}

#[test]
fn only_a_token_of_ours_ties_a_client() {
    let group = group(None);
    let affinity = Affinity::Cookie { name: "s".into(), max_age: None, path: None };
    let token = group.endpoints[1].token.unwrap();
    let stay = |line: &str| {
        let inlet = inlet(Way::Outbound, "127.0.0.1");
        pull(&group, Some(&affinity), &head("/", &[("cookie", line)]), &inlet, 7).stay
    };
    assert_eq!(stay(&format!("s={}", token.as_str())), Some(token));
    assert_eq!(
        stay(&format!("s=AAAAAAAAAAAAAAAA; s={}", token.as_str())),
        Some(token),
        "of another path, say"
    );
    for line in ["s=e1", "s=10.0.0.1:80", "s=AAAAAAAAAAAAAAAA", "s=", "t=1"] {
        assert_eq!(stay(line), None, "{line}");
    }
}

#[test]
fn a_client_is_told_when_its_endpoint_is_another() {
    let token = group(None).endpoints[0].token.unwrap();
    let other = group(None).endpoints[1].token;
    let text = |affinity: &Affinity, before, is_tls| {
        let (name, value) = keep(affinity, token, before, is_tls)?;
        Some(format!("{name}: {}", value.to_str().unwrap()).replace(token.as_str(), "T"))
    };
    let plain = Affinity::Cookie { name: "s".into(), max_age: None, path: None };
    let long = Affinity::Cookie {
        name: "s".into(),
        max_age: Some(Duration::from_secs(3600)),
        path: Some("/shop".into()),
    };
    let line = |text: &str| Some(text.to_owned());
    assert_eq!(text(&plain, None, false), line("set-cookie: s=T; Path=/; HttpOnly; SameSite=Lax"));
    assert_eq!(text(&plain, other, false), line("set-cookie: s=T; Path=/; HttpOnly; SameSite=Lax"));
    assert_eq!(text(&plain, Some(token), false), None);
    let expected = "set-cookie: s=T; Path=/shop; HttpOnly; SameSite=Lax; Max-Age=3600; Secure";
    assert_eq!(text(&long, None, true), line(expected));
    let header = Affinity::Header { name: "x-session".into() };
    assert_eq!(text(&header, Some(token), true), line("x-session: T"));
}
