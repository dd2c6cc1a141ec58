//! A definition made ready to run: every template compiled once, every problem found at once.
//!
//! In:    a [`SagaDefinition`].      Out: a [`Plan`] that renders any step's request, or all [`Problem`]s with their places.
//! Owner: sagas of equal definitions share one `Arc<Plan>`.
//! Invariant: loading never fails (a definition that an older release accepted must still be read): a template that does not
//! compile any more fails when it is rendered, and then the saga says so.
//! Not here: what CEL may do (`template.rs`), when a step is sent (`machine.rs`), by whom (`perform.rs`).

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::{Value as Json, json};

use causeway_model::{Action, Name, SagaDefinition, ServiceCall, ServiceKey, Timestamp};

use crate::error::Problem;
use crate::id::SagaId;
use crate::record::{Answer, StepEdit};
use crate::template::{self, Body, Expression, Reads, Ready, Scope, Text};

/// Most steps of a definition: DTM's bound, and far above what anybody should undo.
pub const STEPS_MAX: usize = 100;
/// Longest definition as it rides with a saga.
pub const DEFINITION_BYTES_MAX: usize = 256 << 10;

/// Headers that are ours or the connection's: a definition may not set them.
const RESERVED_HEADERS: &[&str] = &[
    "connection",
    "content-length",
    "host",
    "idempotency-key",
    "te",
    "traceparent",
    "transfer-encoding",
    "upgrade",
];

/// A definition, compiled.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) definition: SagaDefinition,
    /// CBOR of the definition: what rides in the journal and what "the same definition" means.
    pub(crate) bytes: Vec<u8>,
    /// Stage of each step and its place there, by the step's number.
    places: Vec<(u16, u16)>,
    requests: Vec<Request>,
    undos: Vec<Option<Request>>,
    /// Whether any expression looks at the headers of an answer; otherwise they are not kept.
    pub(crate) reads_headers: bool,
}

#[derive(Debug)]
struct Request {
    shape: Shape,
    /// What its expressions read; `None` when there are none.
    reads: Option<Reads>,
    /// The first thing that did not compile.
    broken: Option<String>,
}

#[derive(Debug)]
enum Shape {
    Call { service: ServiceKey, method: String, path: Text, headers: Vec<(String, Text)>, body: Option<Body> },
    Publish { topic: Name, event_type: String, data: Body },
}

/// A request with its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rendered {
    Call {
        service: ServiceKey,
        method: http::Method,
        path: String,
        headers: Vec<(http::HeaderName, http::HeaderValue)>,
        body: Bytes,
    },
    Publish {
        namespace: Name,
        topic: Name,
        event_type: String,
        data: Json,
    },
}

/// What templates may see of a saga.
pub(crate) struct Sources<'a> {
    pub(crate) id: &'a SagaId,
    pub(crate) input: &'a str,
    pub(crate) started: Timestamp,
    /// Answers of steps, by their number.
    pub(crate) answers: Vec<(usize, &'a Answer)>,
}

/// All problems of a definition, each with its place in the document's `spec`; empty when it can be run.
pub fn validate(definition: &SagaDefinition) -> Vec<Problem> {
    Plan::load(definition.clone()).1
}

impl Plan {
    /// The plan of a definition, or everything that is wrong with it.
    pub(crate) fn compile(definition: SagaDefinition) -> Result<Plan, Vec<Problem>> {
        match Plan::load(definition) {
            (plan, problems) if problems.is_empty() => Ok(plan),
            (_, problems) => Err(problems),
        }
    }

    /// The plan, as good as it gets, and its problems.
    pub(crate) fn load(definition: SagaDefinition) -> (Plan, Vec<Problem>) {
        let mut problems = Vec::new();
        check_whole(&definition, &mut problems);
        let places: Vec<(u16, u16)> = (0..)
            .zip(&definition.stages)
            .flat_map(|(stage, steps)| (0..steps.steps.len() as u16).map(move |place| (stage, place)))
            .collect();
        let requests: Vec<Request> = definition
            .steps()
            .map(|step| match &step.action {
                Action::Call(call) => {
                    Request::call(call, &format!("steps.{}.call", step.name), &mut problems)
                }
                Action::Publish { topic, event_type, data } => {
                    Request::publish(topic, event_type, data, &step.name, &mut problems)
                }
            })
            .collect();
        let undos: Vec<Option<Request>> = definition
            .steps()
            .map(|step| {
                let place = format!("steps.{}.compensate", step.name);
                step.compensate.as_ref().map(|call| Request::call(call, &place, &mut problems))
            })
            .collect();
        let bytes = crate::record::definition_bytes(&definition);
        if bytes.len() > DEFINITION_BYTES_MAX {
            let message = format!("the definition takes {} bytes, above {DEFINITION_BYTES_MAX}", bytes.len());
            problems.push(Problem { place: "spec".into(), message });
        }
        let mut plan = Plan { definition, bytes, places, requests, undos, reads_headers: false };
        let reads_headers = plan.expressions().any(|(_, _, expression)| expression.reads.headers);
        plan.reads_headers = reads_headers;
        plan.check_references(&mut problems);
        (plan, problems)
    }

    /// How many steps there are.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn stage_of(&self, step: usize) -> u16 {
        self.places[step].0
    }

    pub(crate) fn step(&self, step: usize) -> &causeway_model::Step {
        let (stage, place) = self.places[step];
        &self.definition.stages[usize::from(stage)].steps[usize::from(place)]
    }

    pub(crate) fn find(&self, name: &Name) -> Option<usize> {
        self.definition.steps().position(|step| step.name == *name)
    }

    pub(crate) fn has_undo(&self, step: usize) -> bool {
        self.undos[step].is_some()
    }

    /// The request of a step, or of its compensation.
    pub(crate) fn render(&self, step: usize, is_undo: bool, sources: &Sources) -> Result<Rendered, String> {
        let request = match is_undo {
            false => &self.requests[step],
            true => self.undos[step].as_ref().ok_or("it has no compensation")?,
        };
        if let Some(broken) = &request.broken {
            return Err(broken.clone());
        }
        let ready = match &request.reads {
            Some(reads) => Some(self.scope(sources, reads)?.ready(reads)),
            None => None,
        };
        request.render(&self.definition.namespace, ready.as_ref())
    }

    fn scope(&self, sources: &Sources, reads: &Reads) -> Result<Scope, String> {
        let parse = |what: &str, text: &str| {
            serde_json::from_str::<Json>(text).map_err(|error| format!("{what} is not JSON: {error}"))
        };
        let mut steps = serde_json::Map::new();
        for (step, answer) in &sources.answers {
            let name = self.step(*step).name.to_string();
            if !reads.reads_step(&name) {
                continue;
            }
            let body = parse("an answer", &answer.body)?;
            steps.insert(name, json!({"status": answer.status, "body": body, "headers": answer.headers}));
        }
        let saga = match reads.saga {
            true => json!({
                "id": sources.id.as_str(),
                "definition": self.definition.name.as_str(),
                "namespace": self.definition.namespace.as_str(),
                "started": sources.started.to_rfc3339(),
            }),
            false => Json::Null,
        };
        let input = if reads.input { parse("the input", sources.input)? } else { Json::Null };
        Ok(Scope { input, steps: Json::Object(steps), saga })
    }

    /// Every expression with its step's number and whether it is a compensation's.
    fn expressions(&self) -> impl Iterator<Item = (usize, bool, &Expression)> {
        let actions = self.requests.iter().enumerate().map(|(n, request)| (n, false, request));
        let undos = self.undos.iter().enumerate().filter_map(|(n, undo)| Some((n, true, undo.as_ref()?)));
        actions
            .chain(undos)
            .flat_map(|(n, is_undo, request)| request.expressions().into_iter().map(move |e| (n, is_undo, e)))
    }

    /// An action sees the steps of earlier stages; a compensation also those of its own.
    fn check_references(&self, problems: &mut Vec<Problem>) {
        for (at, is_undo, expression) in self.expressions() {
            let here = self.step(at);
            let part = if is_undo { "compensate" } else { "action" };
            for name in &expression.reads.steps {
                let message = match self.definition.steps().position(|step| step.name.as_str() == name) {
                    None => format!("steps.{name} is not a step of this saga"),
                    Some(other) => match (self.stage_of(other).cmp(&self.stage_of(at)), is_undo) {
                        (std::cmp::Ordering::Less, _) | (std::cmp::Ordering::Equal, true) => continue,
                        (std::cmp::Ordering::Equal, false) => {
                            format!("steps.{name} has no answer yet when this step is sent")
                        }
                        (std::cmp::Ordering::Greater, _) => format!("steps.{name} comes later"),
                    },
                };
                problems.push(Problem { place: format!("steps.{}.{part}", here.name), message });
            }
        }
    }
}

fn check_whole(definition: &SagaDefinition, problems: &mut Vec<Problem>) {
    let mut say = |place: String, message: String| problems.push(Problem { place, message });
    let count = definition.steps().count();
    if count == 0 {
        say("steps".into(), "there is no step".into());
    }
    if count > STEPS_MAX {
        say("steps".into(), format!("{count} steps are above {STEPS_MAX}"));
    }
    if definition.stages.iter().any(|stage| stage.steps.is_empty()) {
        say("steps".into(), "a parallel group is empty".into());
    }
    if definition.timeout.is_some_and(|timeout| timeout.is_zero()) {
        say("timeout".into(), "a saga with a timeout of zero can never run".into());
    }
    let mut names = BTreeSet::new();
    for step in definition.steps() {
        if !names.insert(&step.name) {
            say(format!("steps.{}", step.name), "two steps have this name".into());
        }
        if step.retry.attempts == 0 {
            say(format!("steps.{}.retry.attempts", step.name), "at least one attempt is needed".into());
        }
        if step.timeout.is_zero() {
            say(
                format!("steps.{}.timeout", step.name),
                "a timeout of zero leaves no time for an answer".into(),
            );
        }
    }
    let pivots = definition.steps().filter(|step| step.is_pivot).count();
    if pivots > 1 {
        say("steps".into(), format!("{pivots} steps are pivots; there is one point of no return"));
    }
}

// === impl Request ===

impl Request {
    fn call(call: &ServiceCall, place: &str, problems: &mut Vec<Problem>) -> Request {
        let before = problems.len();
        let mut say = |part: &str, message: String| {
            problems.push(Problem { place: format!("{place}.{part}"), message });
        };
        if http::Method::from_bytes(call.method.as_bytes()).is_err()
            || call.method.bytes().any(|b| b.is_ascii_lowercase())
            || call.method == "CONNECT"
        {
            say("method", format!("{:?} is not a method that can be sent", call.method));
        }
        if !call.path.starts_with('/') {
            say("path", format!("{:?} does not begin with /", call.path));
        }
        let path = Text::compile(&call.path).unwrap_or_else(|why| {
            say("path", why);
            Text::default()
        });
        let mut headers = Vec::new();
        for (name, value) in &call.headers {
            let part = format!("headers.{name}");
            if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
                say(&part, "it is not the name of a header".into());
            }
            if RESERVED_HEADERS.contains(&name.as_str()) || name.starts_with("causeway-") {
                say(&part, "this header is set by Causeway itself".into());
            }
            match Text::compile(value) {
                Ok(value) => headers.push((name.clone(), value)),
                Err(why) => say(&part, why),
            }
        }
        let body = call.body.as_ref().map(|body| Request::body(body, &format!("{place}.body"), problems));
        let shape =
            Shape::Call { service: call.service.clone(), method: call.method.clone(), path, headers, body };
        Request::new(shape, problems.get(before))
    }

    fn publish(
        topic: &Name,
        event_type: &str,
        data: &str,
        step: &Name,
        problems: &mut Vec<Problem>,
    ) -> Request {
        let before = problems.len();
        if event_type.is_empty() {
            let place = format!("steps.{step}.publish.type");
            problems.push(Problem { place, message: "an event needs a type".into() });
        }
        let data = Request::body(data, &format!("steps.{step}.publish.data"), problems);
        let shape = Shape::Publish { topic: topic.clone(), event_type: event_type.into(), data };
        Request::new(shape, problems.get(before))
    }

    fn body(text: &str, place: &str, problems: &mut Vec<Problem>) -> Body {
        let mut found = Vec::new();
        let body = Body::compile(text, place, &mut found);
        problems.extend(found.into_iter().map(|(place, message)| Problem { place, message }));
        body
    }

    fn new(shape: Shape, problem: Option<&Problem>) -> Request {
        let mut request = Request { shape, reads: None, broken: problem.map(ToString::to_string) };
        let mut reads = Reads::default();
        let expressions = request.expressions();
        expressions.iter().for_each(|expression| reads.add(&expression.reads));
        request.reads = (!expressions.is_empty()).then_some(reads);
        request
    }

    fn expressions(&self) -> Vec<&Expression> {
        match &self.shape {
            Shape::Call { path, headers, body, .. } => path
                .expressions()
                .chain(headers.iter().flat_map(|(_, value)| value.expressions()))
                .chain(body.iter().flat_map(Body::expressions))
                .collect(),
            Shape::Publish { data, .. } => data.expressions(),
        }
    }

    fn render(&self, namespace: &Name, ready: Option<&Ready>) -> Result<Rendered, String> {
        match &self.shape {
            Shape::Publish { topic, event_type, data } => Ok(Rendered::Publish {
                namespace: namespace.clone(),
                topic: topic.clone(),
                event_type: event_type.clone(),
                data: data.render_json(ready)?,
            }),
            Shape::Call { service, method, path, headers, body } => {
                let mut rendered = Vec::with_capacity(headers.len());
                for (name, value) in headers {
                    let value = value.render(ready, template::as_is)?;
                    let value = http::HeaderValue::from_str(&value)
                        .map_err(|_| format!("header {name} would hold {value:?}, which no header can"))?;
                    let name = http::HeaderName::from_bytes(name.as_bytes())
                        .map_err(|_| format!("{name:?} is not the name of a header"))?;
                    rendered.push((name, value));
                }
                let body = body.as_ref().map(|body| body.render(ready)).transpose()?.unwrap_or_default();
                Ok(Rendered::Call {
                    service: service.clone(),
                    method: http::Method::from_bytes(method.as_bytes()).map_err(|error| error.to_string())?,
                    path: path.render(ready, template::percent_encoded)?,
                    headers: rendered,
                    body: body.into(),
                })
            }
        }
    }
}

/// The plan of a definition read back; `None` when the bytes are not one.
pub(crate) fn load_bytes(bytes: &[u8]) -> Option<Plan> {
    let definition = causeway_model::codec::decode(bytes).ok()?;
    Some(Plan::load(definition).0)
}

/// The definition with one step's request changed.
pub(crate) fn edited(
    definition: &SagaDefinition,
    step: usize,
    change: &StepEdit,
) -> Result<SagaDefinition, String> {
    let mut definition = definition.clone();
    let found = definition.stages.iter_mut().flat_map(|stage| &mut stage.steps).nth(step);
    let found = found.ok_or("it has no such step")?;
    if change.path.is_none() && change.body.is_none() {
        return Err("the edit changes nothing".into());
    }
    let call = match (&mut found.action, change.is_undo) {
        (_, true) => found.compensate.as_mut().ok_or("the step has no compensation")?,
        (Action::Call(call), false) => call,
        (Action::Publish { data, .. }, false) => {
            if change.path.is_some() {
                return Err("a step that publishes has no path".into());
            }
            data.clone_from(change.body.as_ref().ok_or("the edit changes nothing")?);
            return Ok(definition);
        }
    };
    if let Some(path) = &change.path {
        call.path.clone_from(path);
    }
    if let Some(body) = &change.body {
        call.body = Some(body.clone());
    }
    Ok(definition)
}
