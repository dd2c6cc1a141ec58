//! An app of a test: answers with its name, or as it is told; can be killed and started again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway_base::net::{BindOptions, Net};
use causeway_base::{OnFailure, Scope};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::client::{self, Client};

/// A request as the app saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `GET /path?query`
    pub line: String,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// What an app does with a request.
type Behaviour = Arc<dyn Fn(&Seen) -> (Duration, Response<Bytes>) + Send + Sync>;

/// An app.
#[derive(Clone)]
pub struct App {
    name: String,
    address: SocketAddr,
    net: Net,
    state: Arc<Mutex<State>>,
}

struct State {
    life: Scope,
    behaviour: Behaviour,
    seen: Vec<Seen>,
    connections: usize,
    /// The connection ends after a request was read, without an answer.
    breaks: bool,
    /// Places of workers; every request has one of its own where there are none.
    workers: Option<Arc<Semaphore>>,
    /// Asks this address this line, and answers what it is answered.
    asks: Option<(SocketAddr, String)>,
}

impl App {
    /// Starts an app that answers 200 with its name.
    pub(crate) fn start(name: &str, address: SocketAddr, net: &Net) -> Self {
        let state = State {
            life: Scope::root(name),
            behaviour: answer_with(name),
            seen: Vec::new(),
            connections: 0,
            breaks: false,
            workers: None,
            asks: None,
        };
        let state = Arc::new(Mutex::new(state));
        let app = App { name: name.to_owned(), address, net: net.clone(), state };
        app.listen();
        app
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on answers as `behaviour` says, after a while.
    pub fn behave(&self, behaviour: impl Fn(&Seen) -> (Duration, Response<Bytes>) + Send + Sync + 'static) {
        self.state.lock().behaviour = Arc::new(behaviour);
    }

    /// From now on answers with this status.
    pub fn answer(&self, status: u16) {
        let name = self.name.clone();
        self.behave(move |_| {
            let body = Bytes::from(name.clone());
            let response = Response::builder().status(status).body(body).expect("a status of the test");
            (Duration::ZERO, response)
        });
    }

    /// From now on answers 200 with its name, this late.
    pub fn delay(&self, by: Duration) {
        let answer = answer_with(&self.name);
        self.behave(move |seen| (by, answer(seen).1));
    }

    /// From now on ends the connection once it has read a request.
    pub fn break_off(&self, breaks: bool) {
        self.state.lock().breaks = breaks;
    }

    /// From now on works on so many requests at once; others wait for their turn.
    pub fn workers(&self, count: usize) {
        self.state.lock().workers = Some(Arc::new(Semaphore::new(count)));
    }

    /// From now on asks another one (`METHOD http://host/path` through its sidecar's address) and answers the same.
    pub fn relay(&self, through: SocketAddr, line: &str) {
        self.state.lock().asks = Some((through, line.to_owned()));
    }

    /// Ends as by `kill -9`: connections break, the address refuses.
    pub async fn kill(&self) {
        let life = self.state.lock().life.clone();
        life.shutdown(Duration::from_secs(1)).await;
    }

    /// Listens again after [`App::kill`].
    pub fn revive(&self) {
        self.state.lock().life = Scope::root(&self.name);
        self.listen();
    }

    /// Requests that it has seen, oldest first.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.lock().seen.clone()
    }

    /// How many requests it has seen.
    pub fn count(&self) -> usize {
        self.state.lock().seen.len()
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.state.lock().connections
    }

    fn listen(&self) {
        let mut listener =
            self.net.bind(self.address, BindOptions::default()).expect("the test's address is free");
        let life = self.state.lock().life.clone();
        let (app, ended, scope) = (self.clone(), life.cancelled(), life.clone());
        life.spawn("accept", OnFailure::Log, async move {
            let accept = async {
                while let Ok((stream, _)) = listener.accept().await {
                    app.state.lock().connections += 1;
                    let (app, ended) = (app.clone(), scope.cancelled());
                    scope.spawn("connection", OnFailure::Log, async move {
                        let service = service_fn(move |request| app.clone().serve(request));
                        let builder = auto::Builder::new(TokioExecutor::new());
                        let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
                        tokio::select! { biased; () = ended => {}, _ = served => {} }
                        Ok(())
                    });
                }
            };
            tokio::select! { biased; () = ended => {}, () = accept => {} }
            Ok(())
        });
    }

    async fn serve(self, mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, BrokenOff> {
        let upgrade = request.headers().contains_key("upgrade").then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| BrokenOff)?.to_bytes();
        let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
        let seen = Seen { line: format!("{} {target}", parts.method), headers: parts.headers, body };
        let (behaviour, breaks, workers, asks) = {
            let mut state = self.state.lock();
            state.seen.push(seen.clone());
            (state.behaviour.clone(), state.breaks, state.workers.clone(), state.asks.clone())
        };
        if breaks {
            return Err(BrokenOff);
        }
        if let Some(upgrade) = upgrade {
            self.echo(upgrade);
            let response =
                Response::builder().status(101).header("upgrade", "echo").header("connection", "upgrade");
            return Ok(response.body(Full::default()).expect("fixed fields"));
        }
        let _turn = match workers {
            Some(workers) => workers.acquire_owned().await.ok(),
            None => None,
        };
        if let Some((through, line)) = asks {
            let answer = Client::connect(&self.net, through).await.send(client::request(&line)).await;
            let answer = answer.map_err(|_| BrokenOff)?;
            let body = Full::new(Bytes::from(answer.body));
            return Ok(Response::builder().status(answer.status).body(body).expect("a status that was read"));
        }
        let (late, response) = behaviour(&seen);
        if !late.is_zero() {
            tokio::time::sleep(late).await;
        }
        Ok(response.map(Full::new))
    }

    /// Speaks "echo" on an upgraded connection.
    fn echo(&self, upgrade: hyper::upgrade::OnUpgrade) {
        let life = self.state.lock().life.clone();
        life.spawn("echo", OnFailure::Log, async move {
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgrade.await?));
            tokio::io::copy(&mut read, &mut write).await?;
            Ok(())
        });
    }
}

fn answer_with(name: &str) -> Behaviour {
    let name = Bytes::from(name.to_owned());
    Arc::new(move |_| (Duration::ZERO, Response::new(name.clone())))
}

/// Makes hyper end the connection.
#[derive(Debug)]
struct BrokenOff;

impl std::fmt::Display for BrokenOff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("broken off")
    }
}

impl std::error::Error for BrokenOff {}
