//! Texts with `${…}`: CEL over `input`, `steps` and `saga`, in paths, headers and the strings of JSON bodies.
//!
//! In:    a text or JSON as written, later the [`Scope`] of one saga.     Out: the text or JSON that is sent, or why not.
//! Owner: `plan.rs` holds one per place of a definition.
//! Invariant: rendering does no IO and reads nothing but its scope; what is inserted into a path is one segment's worth of
//! percent-encoded text, so that data never adds a `/`, a `?` or a line break to a request.
//! Not here: which templates a definition has, and where (`plan.rs`).

use std::fmt::Write as _;

use serde_json::Value as Json;

use causeway_expression::ast::{Expr, IdedExpr, LiteralValue, operators};
use causeway_expression::{Context, Limits, Program, Refusal, compile, context, value_of};

/// Longest expression: a longer one is a program, and belongs into a service.
pub const EXPRESSION_BYTES_MAX: usize = 1024;
/// Most JSON values (leaves, lists, objects) in scope of an expression with a loop (`map`, `filter`, `all`, `exists`): a loop with a
/// search inside costs the square of it, here 17 million steps, a fraction of a second.
pub const LOOP_VALUES_MAX: usize = 4096;
/// Longest text or body after rendering: what a step may send.
pub const RENDERED_BYTES_MAX: usize = 1 << 20;

/// One loop: what it goes over has a bound ([`LOOP_VALUES_MAX`]), and a loop inside it would take the square of it on top.
const LIMITS: Limits = Limits { bytes: EXPRESSION_BYTES_MAX, nesting: 24, depth: 32, loops: 1 };

/// What an expression sees.
const NAMES: [&str; 3] = ["input", "steps", "saga"];

/// One compiled `${…}`.
#[derive(Debug)]
pub(crate) struct Expression {
    program: Program,
    source: String,
    /// Where it is nothing but a path (`input.a.b`, `steps.x.body.id`): walked directly, without CEL's values. Most are, and the
    /// values of a saga's answers cost more to build than everything else about a transition.
    path: Option<Vec<String>>,
    pub(crate) reads: Reads,
}

/// What expressions read of a saga: only that is put into their scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reads {
    pub(crate) input: bool,
    pub(crate) saga: bool,
    /// All of `steps`, not only named ones.
    pub(crate) all_steps: bool,
    /// Steps that are named, as `steps.<name>` or `steps["<name>"]`.
    pub(crate) steps: Vec<String>,
    pub(crate) headers: bool,
    /// Something other than paths.
    pub(crate) needs_cel: bool,
}

impl Reads {
    pub(crate) fn add(&mut self, other: &Reads) {
        self.input |= other.input;
        self.saga |= other.saga;
        self.all_steps |= other.all_steps;
        self.headers |= other.headers;
        self.needs_cel |= other.needs_cel;
        self.steps.extend(
            other.steps.iter().filter(|step| !self.steps.contains(step)).cloned().collect::<Vec<_>>(),
        );
    }

    fn of(program: &Program) -> Reads {
        let names = program.names();
        let mut reads =
            Reads { input: names.contains(&"input"), saga: names.contains(&"saga"), ..Reads::default() };
        program.walk(&mut |node, bound| {
            let is_steps = |node: &IdedExpr| {
                matches!(&node.expr, Expr::Ident(name) if name == "steps" && !bound.contains(&"steps"))
            };
            if let Some((operand, field)) = access(node) {
                reads.headers |= field == "headers";
                if is_steps(operand) {
                    reads.steps.push(field.to_owned());
                    return false;
                }
            }
            if is_steps(node) {
                reads.all_steps = true;
                // Which field of which step is not known.
                reads.headers = true;
            }
            true
        });
        reads
    }

    pub(crate) fn reads_step(&self, name: &str) -> bool {
        self.all_steps || self.steps.iter().any(|step| step == name)
    }
}

/// A text with expressions in it.
#[derive(Debug, Default)]
pub(crate) struct Text {
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    Plain(String),
    Inserted(Expression),
}

/// A JSON document with expressions in its strings.
#[derive(Debug)]
pub(crate) enum Body {
    /// Without any: sent as written.
    Plain(String),
    Tree(Node),
}

#[derive(Debug)]
pub(crate) enum Node {
    Plain(Json),
    /// A string that is exactly one `${…}`: the value keeps its type.
    Whole(Expression),
    Text(Text),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

/// What expressions see of one saga.
#[derive(Debug)]
pub(crate) struct Scope {
    pub(crate) input: Json,
    pub(crate) steps: Json,
    pub(crate) saga: Json,
}

/// [`Scope`], ready for evaluation.
pub(crate) struct Ready {
    scope: Scope,
    context: Option<Context<'static, 'static>>,
    values: usize,
}

impl Scope {
    pub(crate) fn ready(self, reads: &Reads) -> Ready {
        if !reads.needs_cel {
            return Ready { scope: self, context: None, values: 0 };
        }
        let mut context = context();
        let all = [("input", &self.input), ("steps", &self.steps), ("saga", &self.saga)];
        for (name, value) in all {
            context.add_variable_from_value(name, value_of(value));
        }
        let values = all.into_iter().map(|(_, value)| count(value)).sum();
        Ready { scope: self, context: Some(context), values }
    }

    fn walk(&self, path: &[String]) -> Option<&Json> {
        let (root, rest) = path.split_first()?;
        let root = match root.as_str() {
            "input" => &self.input,
            "steps" => &self.steps,
            _ => &self.saga,
        };
        rest.iter().try_fold(root, |value, field| value.as_object()?.get(field))
    }
}

// === impl Expression ===

impl Expression {
    fn compile(source: &str) -> Result<Self, String> {
        if source.trim().is_empty() {
            return Err("${} is empty".into());
        }
        let program = compile(source, &LIMITS).map_err(|refusal| match refusal {
            Refusal::Long { max } => format!("an expression of {} bytes is above {max}", source.len()),
            Refusal::NotCel(words) => format!("${{{source}}} is not CEL: {words}"),
            Refusal::Loops { .. } => {
                format!("${{{source}}}: a loop inside a loop is not here: its cost has no bound")
            }
            Refusal::Nested { .. } | Refusal::Deep { .. } | Refusal::NoThread(_) => {
                format!("${{{source}}}: {refusal}")
            }
        })?;
        if let Some(name) = program.names().iter().find(|name| !NAMES.contains(name)) {
            return Err(format!("${{{source}}}: {name:?} is not known here, only input, steps and saga are"));
        }
        let path = path_of(program.tree());
        let reads = Reads { needs_cel: path.is_none(), ..Reads::of(&program) };
        Ok(Expression { program, source: source.into(), path, reads })
    }

    fn evaluate(&self, ready: &Ready) -> Result<Json, String> {
        if let Some(path) = &self.path {
            let value = ready.scope.walk(path).cloned();
            return value.ok_or_else(|| format!("${{{}}} has no value: there is none there", self.source));
        }
        let context = ready.context.as_ref().ok_or("no scope for an expression")?;
        if self.program.has_loop() && ready.values > LOOP_VALUES_MAX {
            return Err(format!(
                "${{{}}} loops over a saga of {} values, above {LOOP_VALUES_MAX}",
                self.source, ready.values
            ));
        }
        let value = self
            .program
            .evaluate(context)
            .map_err(|error| format!("${{{}}} has no value: {error}", self.source))?;
        value.json().map_err(|_| format!("${{{}}} gives something that JSON cannot hold", self.source))
    }
}

/// The fields of a plain path from `input`, `steps` or `saga`.
fn path_of(node: &IdedExpr) -> Option<Vec<String>> {
    match &node.expr {
        Expr::Ident(name) if NAMES.contains(&name.as_str()) => Some(vec![name.clone()]),
        Expr::Select(select) if !select.test => {
            let mut path = path_of(&select.operand)?;
            path.push(select.field.clone());
            Some(path)
        }
        _ => None,
    }
}

/// `operand.field` or `operand["field"]`.
fn access(node: &IdedExpr) -> Option<(&IdedExpr, &str)> {
    match &node.expr {
        Expr::Select(select) => Some((&select.operand, &select.field)),
        Expr::Call(call) if call.func_name == operators::INDEX => match call.args.as_slice() {
            [operand, IdedExpr { expr: Expr::Literal(LiteralValue::String(key)), .. }] => {
                Some((operand, key.inner()))
            }
            _ => None,
        },
        _ => None,
    }
}

// === impl Text ===

impl Text {
    /// Cuts `text` at its `${…}`. `$${` is a plain `${`.
    pub(crate) fn compile(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                plain.push_str(&rest[..at - 1]);
                plain.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            plain.push_str(&rest[..at]);
            let inner = &rest[at + 2..];
            let end = end_of_expression(inner).ok_or_else(|| format!("{text:?} has a ${{ without its }}"))?;
            if !plain.is_empty() {
                parts.push(Part::Plain(std::mem::take(&mut plain)));
            }
            parts.push(Part::Inserted(Expression::compile(&inner[..end])?));
            rest = &inner[end + 1..];
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Plain(plain));
        }
        Ok(Text { parts })
    }

    pub(crate) fn expressions(&self) -> impl Iterator<Item = &Expression> {
        self.parts.iter().filter_map(|part| match part {
            Part::Plain(_) => None,
            Part::Inserted(expression) => Some(expression),
        })
    }

    /// The text with every value inserted; `encode` writes one value's text.
    pub(crate) fn render(
        &self,
        ready: Option<&Ready>,
        encode: fn(&str, &mut String),
    ) -> Result<String, String> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Plain(plain) => text.push_str(plain),
                Part::Inserted(expression) => {
                    let ready = ready.ok_or("no scope for an expression")?;
                    match expression.evaluate(ready)? {
                        Json::String(value) => encode(&value, &mut text),
                        Json::Null => {
                            return Err(format!(
                                "${{{}}} is null, which has no place in a text",
                                expression.source
                            ));
                        }
                        other => encode(&other.to_string(), &mut text),
                    }
                }
            }
            if text.len() > RENDERED_BYTES_MAX {
                return Err(format!("the rendered text is above {RENDERED_BYTES_MAX} bytes"));
            }
        }
        Ok(text)
    }
}

/// Where the `}` of an expression is: braces and quotes inside it are skipped.
fn end_of_expression(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let mut quote = None;
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match (quote, byte) {
            (Some(_), b'\\') => {
                bytes.next();
            }
            (Some(open), _) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'{') => depth += 1,
            (None, b'}') if depth == 0 => return Some(at),
            (None, b'}') => depth -= 1,
            (None, _) => {}
        }
    }
    None
}

/// Inserts a value as it is (JSON strings, header values, which are checked afterwards).
pub(crate) fn as_is(value: &str, text: &mut String) {
    text.push_str(value);
}

/// Inserts a value percent-encoded: everything but RFC 3986 unreserved characters.
pub(crate) fn percent_encoded(value: &str, text: &mut String) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            text.push(char::from(byte));
        } else {
            // Writing into a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
}

// === impl Body ===

impl Body {
    /// Reads a JSON text; `path` names the place of each problem.
    pub(crate) fn compile(text: &str, path: &str, problems: &mut Vec<(String, String)>) -> Self {
        let json: Json = match serde_json::from_str(text) {
            Ok(json) => json,
            Err(error) => {
                problems.push((path.into(), format!("it is not JSON: {error}")));
                Json::Null
            }
        };
        match Node::compile(json, path, problems) {
            Node::Plain(_) => Body::Plain(text.into()),
            node => Body::Tree(node),
        }
    }

    pub(crate) fn expressions(&self) -> Vec<&Expression> {
        let mut found = Vec::new();
        if let Body::Tree(node) = self {
            node.expressions(&mut found);
        }
        found
    }

    pub(crate) fn render(&self, ready: Option<&Ready>) -> Result<Vec<u8>, String> {
        let bytes = match self {
            Body::Plain(text) => text.clone().into_bytes(),
            Body::Tree(node) => node.render(ready)?.to_string().into_bytes(),
        };
        match bytes.len() {
            size if size > RENDERED_BYTES_MAX => {
                Err(format!("a body of {size} bytes is above {RENDERED_BYTES_MAX}"))
            }
            _ => Ok(bytes),
        }
    }

    pub(crate) fn render_json(&self, ready: Option<&Ready>) -> Result<Json, String> {
        match self {
            Body::Plain(text) => serde_json::from_str(text).map_err(|error| error.to_string()),
            Body::Tree(node) => node.render(ready),
        }
    }
}

impl Node {
    fn compile(json: Json, path: &str, problems: &mut Vec<(String, String)>) -> Node {
        match json {
            Json::String(text) if text.contains("${") => match Text::compile(&text) {
                Ok(text) => Node::of_text(text),
                Err(why) => {
                    problems.push((path.into(), why));
                    Node::Plain(Json::Null)
                }
            },
            Json::Array(items) => {
                let nodes: Vec<Node> = items
                    .into_iter()
                    .enumerate()
                    .map(|(n, item)| Node::compile(item, &format!("{path}[{n}]"), problems))
                    .collect();
                match nodes.iter().all(|node| matches!(node, Node::Plain(_))) {
                    true => Node::Plain(Json::Array(nodes.into_iter().filter_map(Node::plain).collect())),
                    false => Node::List(nodes),
                }
            }
            Json::Object(fields) => {
                let nodes: Vec<(String, Node)> = fields
                    .into_iter()
                    .map(|(name, field)| {
                        let node = Node::compile(field, &format!("{path}.{name}"), problems);
                        (name, node)
                    })
                    .collect();
                match nodes.iter().all(|(_, node)| matches!(node, Node::Plain(_))) {
                    true => Node::Plain(Json::Object(
                        nodes.into_iter().filter_map(|(name, node)| Some((name, node.plain()?))).collect(),
                    )),
                    false => Node::Object(nodes),
                }
            }
            plain => Node::Plain(plain),
        }
    }

    fn of_text(mut text: Text) -> Node {
        match text.parts.pop() {
            Some(Part::Inserted(whole)) if text.parts.is_empty() => Node::Whole(whole),
            last => {
                text.parts.extend(last);
                Node::Text(text)
            }
        }
    }

    fn plain(self) -> Option<Json> {
        match self {
            Node::Plain(json) => Some(json),
            _ => None,
        }
    }

    fn expressions<'a>(&'a self, found: &mut Vec<&'a Expression>) {
        match self {
            Node::Plain(_) => {}
            Node::Whole(expression) => found.push(expression),
            Node::Text(text) => found.extend(text.expressions()),
            Node::List(nodes) => nodes.iter().for_each(|node| node.expressions(found)),
            Node::Object(nodes) => nodes.iter().for_each(|(_, node)| node.expressions(found)),
        }
    }

    fn render(&self, ready: Option<&Ready>) -> Result<Json, String> {
        Ok(match self {
            Node::Plain(json) => json.clone(),
            Node::Whole(expression) => expression.evaluate(ready.ok_or("no scope for an expression")?)?,
            Node::Text(text) => Json::String(text.render(ready, as_is)?),
            Node::List(nodes) => {
                Json::Array(nodes.iter().map(|node| node.render(ready)).collect::<Result<_, _>>()?)
            }
            Node::Object(nodes) => Json::Object(
                nodes
                    .iter()
                    .map(|(name, node)| Ok((name.clone(), node.render(ready)?)))
                    .collect::<Result<_, String>>()?,
            ),
        })
    }
}

fn count(json: &Json) -> usize {
    1 + match json {
        Json::Array(items) => items.iter().map(count).sum(),
        Json::Object(fields) => fields.values().map(count).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ready() -> Ready {
        let scope = Scope {
            input: json!({"id": 7, "sku": "a b/c?d\n", "items": [1, 2, 3], "big": 1.5, "none": null}),
            steps: json!({"reserve": {"status": 201, "body": {"id": "r-1"}, "headers": {"location": "/x"}}}),
            saga: json!({"id": "order-7"}),
        };
        scope.ready(&Reads { needs_cel: true, ..Reads::default() })
    }

    fn check(template: &str, expected: Result<&str, &str>) {
        let rendered = Text::compile(template).and_then(|text| text.render(Some(&ready()), percent_encoded));
        match (&rendered, expected) {
            (Ok(text), Ok(expected)) => assert_eq!(text, expected, "{template}"),
            (Err(why), Err(part)) => assert!(why.contains(part), "{template}: {why}"),
            _ => panic!("{template}: {rendered:?}"),
        }
    }

    #[test]
    fn texts() {
        check("/plain", Ok("/plain"));
        check("/r/${steps.reserve.body.id}/x", Ok("/r/r-1/x"));
        check("/r/${input.sku}", Ok("/r/a%20b%2Fc%3Fd%0A"));
        check("/r/${input.id}?q=${input.big}", Ok("/r/7?q=1.5"));
        check("/$${input.id}", Ok("/${input.id}"));
        check("/${'}'}${\"{\"}", Ok("/%7D%7B"));
        check("/${has(steps.charge) ? steps.charge.body.id : 'none'}", Ok("/none"));
        check("/${string(size(input.items.filter(i, i > 1)))}", Ok("/2"));
        check("/${input.items.filter(i, i > 1).map(i, i * 2)[0] / 2}", Ok("/2"));
        check("/${input.id * 2 + 1}", Ok("/15"));
        check("/${input.none}", Err("is null"));
        check("/${steps.charge.body.id}", Err("has no value"));
        check("/${input.id", Err("without its }"));
        check("/${input.}", Err("is not CEL"));
        check("/${inptu.id}", Err("\"inptu\" is not known here"));
        check("/${input.items.map(i, input.items.map(j, j))}", Err("a loop inside a loop"));
        check(&format!("/${{'{}'}}", "x".repeat(2000)), Err("above 1024"));
        check("/${}", Err("is empty"));
    }

    #[test]
    fn bodies_keep_types_where_a_string_is_one_expression() {
        let body = r#"{"n": "${input.id}", "t": "no ${input.id}", "l": ["${input.items}", 1], "o": {"k": true}, "x": "${input.none}"}"#;
        let mut problems = Vec::new();
        let compiled = Body::compile(body, "body", &mut problems);
        assert_eq!(problems, []);
        assert_eq!(
            compiled.render_json(Some(&ready())).unwrap(),
            json!({"n": 7, "t": "no 7", "l": [[1, 2, 3], 1], "o": {"k": true}, "x": null})
        );
        assert!(matches!(Body::compile(r#"{"a": [1, {"b": "c"}]}"#, "body", &mut problems), Body::Plain(_)));
        Body::compile(r#"{"a": [1, {"b": "${nope}"}]}"#, "body", &mut problems);
        assert_eq!(problems[0].0, "body.a[1].b");
    }

    #[test]
    fn a_loop_over_much_is_refused_and_plain_access_is_not() {
        let scope = Scope {
            input: json!({"items": vec![1; LOOP_VALUES_MAX], "id": 1}),
            steps: json!({}),
            saga: json!({}),
        };
        let ready = scope.ready(&Reads { needs_cel: true, ..Reads::default() });
        let render = |text| Text::compile(text).unwrap().render(Some(&ready), as_is);
        assert!(render("${size(input.items.map(i, i in input.items))}").unwrap_err().contains("above 4096"));
        assert_eq!(render("${input.id}").unwrap(), "1");
    }

    #[test]
    fn expressions_tell_what_they_read() {
        let text = Text::compile("${steps.a.body.x}${steps['b'].headers['etag']}").unwrap();
        let seen: Vec<_> = text.expressions().map(|e| (e.reads.steps.join(","), e.reads.headers)).collect();
        assert_eq!(seen, [("a".into(), false), ("b".into(), true)]);
    }

    /// In a process of its own: what this is about used to end the whole process, and a test must not take the others with it.
    #[test]
    fn no_definition_brings_the_process_down() {
        const CHILD: &str = "CAUSEWAY_SAGA_TEMPLATE_CHILD";
        if std::env::var_os(CHILD).is_none() {
            let test = "template::tests::no_definition_brings_the_process_down";
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            let output = child.args(["--exact", test, "--nocapture"]).env(CHILD, "1").output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {said}", output.status);
            return;
        }
        for (expression, why) in [
            (format!("{}1{}", "(".repeat(200), ")".repeat(200)), "deeper than 24"),
            (format!("{}1{}", "[".repeat(200), "]".repeat(200)), "deeper than 24"),
            (format!("{}1{}", "{1:".repeat(200), "}".repeat(200)), "deeper than 24"),
            (format!("{}1{}", "int(".repeat(200), ")".repeat(200)), "deeper than 24"),
            (vec!["1"; 500].join("+"), "deeper than 32"),
            (vec!["1"; 1001].join("+"), "above 1024"),
            (format!("{}true", "true?true:".repeat(90)), "deeper than 32"),
            (format!("input{}", ".a".repeat(500)), "deeper than 32"),
        ] {
            eprintln!("{} bytes, {:.20}", expression.len(), expression);
            check(&format!("/${{{expression}}}"), Err(why));
        }
        check(&format!("/${{{}7{}}}", "(".repeat(20), ")".repeat(20)), Ok("/7"));
    }
}
