//! The sidecar's DNS, to which the app's own questions are redirected in transparent mode.
//!
//! In:    questions by UDP and TCP, from this machine.      Out: virtual addresses for names of the mesh; everything else as the
//! machine's own resolvers answer it.
//! Owner: a sidecar in transparent mode; its tasks are in the scope that it gave.
//! Invariant: it listens on loopback only; questions under way are bounded, and one too many is answered at once, with a failure.
//! Not here: what a name means (`causeway-proxy::naming`), making answers (`answer`), asking others (`forward`).

mod answer;
mod forward;
mod resolvers;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use causeway_base::net::{BindOptions, Listener, Net, Stream};
use causeway_base::scope::Failure;
use causeway_base::{OnFailure, Scope};
use causeway_proxy::{Named, Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;

use forward::Forward;
pub(crate) use resolvers::Resolvers;

/// Questions under way: an app that resolves a name for each of its calls has a few; each may wait seconds for a resolver.
const QUESTIONS_MAX: usize = 512;
/// TCP connections at once; resolvers of apps use one for an answer that is too long for UDP.
const CONNECTIONS_MAX: usize = 64;
/// How long a TCP connection may be silent (RFC 7766 section 6.2.3 wants seconds).
const CONNECTION_IDLE: Duration = Duration::from_secs(10);
/// Longest question that is read by UDP: more than any resolver of an app sends.
const QUESTION_BYTES_MAX: usize = 4096;

/// Who knows what a name means.
pub(crate) trait Names: Send + Sync + 'static {
    /// Asks.
    fn name(&self, host: &str) -> impl Future<Output = Named> + Send;
}

impl Names for Proxy {
    async fn name(&self, host: &str) -> Named {
        Proxy::name(self, host).await
    }
}

/// Where it listens on one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) udp: SocketAddr,
    pub(crate) tcp: SocketAddr,
}

/// Opens it on an address of this machine, on free ports.
///
/// # Errors
/// When the address cannot be had.
pub(crate) async fn start(
    names: Arc<impl Names>,
    net: &Net,
    suffix: &str,
    on: IpAddr,
    resolvers: Resolvers,
    scope: &Scope,
) -> io::Result<Ports> {
    let any = SocketAddr::new(on, 0);
    let (udp, tcp) = (net.bind_datagrams(any).await?, net.bind(any, BindOptions::default())?);
    let ports = Ports { udp: udp.local_addr()?, tcp: tcp.local_addr()? };
    let desk = Arc::new(Desk {
        names,
        suffix: suffix.to_owned(),
        forward: Forward::new(net.clone(), resolvers),
        questions: Arc::new(Semaphore::new(QUESTIONS_MAX)),
        connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        scope: scope.clone(),
    });
    spawn(scope, "dns-udp", serve_udp(desk.clone(), Arc::new(udp)));
    spawn(scope, "dns-tcp", serve_tcp(desk, tcp));
    Ok(ports)
}

struct Desk<N> {
    names: Arc<N>,
    suffix: String,
    forward: Forward,
    questions: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    scope: Scope,
}

/// How a question came: an answer that is too long for the one may go by the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

impl<N: Names> Desk<N> {
    /// The answer to a question; none to what is no question.
    async fn answer(&self, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let asked = match answer::read(question) {
            answer::Read::Question(asked) => asked,
            answer::Read::Refused(reply) => return reply,
        };
        let Some(host) = asked.host() else { return self.pass_on(&asked, question, transport).await };
        match self.names.name(&host).await {
            Named::Service(address) => asked.found(address, &self.suffix),
            Named::Nobody => asked.nobody(&self.suffix),
            Named::Full => asked.failed(),
            Named::Foreign => self.pass_on(&asked, question, transport).await,
        }
    }

    async fn pass_on(&self, asked: &answer::Asked, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
        match self.forward.ask(question, transport).await {
            Ok(answer) => Some(answer),
            Err(error) => {
                tracing::debug!(%error, name = asked.host(), "no resolver answers");
                asked.failed()
            }
        }
    }
}

fn spawn(scope: &Scope, name: &str, task: impl Future<Output = ()> + Send + 'static) {
    let stop = scope.cancelled();
    scope.spawn(name, OnFailure::Log, async move {
        tokio::select! { biased; () = stop => {}, () = task => {} }
        Ok::<(), Failure>(())
    });
}

async fn serve_udp<N: Names>(desk: Arc<Desk<N>>, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0; QUESTION_BYTES_MAX];
    loop {
        // An error is one of an earlier answer (its asker is gone), or passes.
        let Ok((length, asker)) = socket.recv_from(&mut buffer).await else {
            tokio::task::yield_now().await;
            continue;
        };
        let question = buffer[..length].to_vec();
        let Ok(place) = desk.questions.clone().try_acquire_owned() else {
            if let Some(answer) = answer::too_many(&question) {
                let _ = socket.try_send_to(&answer, asker);
            }
            continue;
        };
        let (desk, socket, scope) = (desk.clone(), socket.clone(), desk.scope.clone());
        spawn(&scope, "dns-question", async move {
            let _place = place;
            if let Some(answer) = desk.answer(&question, Transport::Udp).await {
                let _ = socket.send_to(&answer, asker).await;
            }
        });
    }
}

async fn serve_tcp<N: Names>(desk: Arc<Desk<N>>, mut listener: Listener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        // One too many is closed.
        let Ok(place) = desk.connections.clone().try_acquire_owned() else { continue };
        let (desk, scope) = (desk.clone(), desk.scope.clone());
        spawn(&scope, "dns-connection", async move {
            let _place = place;
            let _ = serve_connection(&desk, stream).await;
        });
    }
}

async fn serve_connection<N: Names>(desk: &Desk<N>, mut stream: Stream) -> io::Result<()> {
    loop {
        let question = tokio::time::timeout(CONNECTION_IDLE, read_message(&mut stream)).await??;
        let answer = match desk.questions.clone().try_acquire_owned() {
            Ok(_place) => desk.answer(&question, Transport::Tcp).await,
            Err(_) => answer::too_many(&question),
        };
        let Some(answer) = answer else { return Ok(()) };
        tokio::time::timeout(CONNECTION_IDLE, write_message(&mut stream, &answer)).await??;
    }
}

/// A message on TCP stands behind its length (RFC 1035 section 4.2.2).
async fn read_message(stream: &mut Stream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut Stream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // In one piece, so that it is one segment.
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await
}
