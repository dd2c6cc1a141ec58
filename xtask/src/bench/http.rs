//! A plain HTTP/1.1 client and servers that say their name: as little as a measurement needs, so that it measures others.
//!
//! In:    a port.      Out: answers.
//! Owner: `change`, `idle`.
//! Invariant: one connection is kept until the other side closes it.
//! Not here: load (`load`).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

/// How long one answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// An answer, as far as it is looked at.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// A kept connection to one port of this machine.
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    /// Connects.
    pub fn open(port: u16) -> Result<Connection> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        Ok(Connection(BufReader::with_capacity(4096, stream)))
    }

    /// Sends one request and reads its answer.
    pub fn request(&mut self, method: &str, path: &str, body: &str) -> Result<Answer> {
        let kind = if body.is_empty() { "" } else { "content-type: application/json\r\n" };
        let length = body.len();
        let text = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\n{kind}content-length: {length}\r\n\r\n{body}"
        );
        self.0.get_mut().write_all(text.as_bytes())?;
        self.answer().with_context(|| format!("{method} {path}"))
    }

    fn answer(&mut self) -> Result<Answer> {
        let head = self.line()?;
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status: u16 = status.ok_or_else(|| anyhow!("not an answer: {head:?}"))?;
        let (mut length, mut is_chunked) = (0, false);
        loop {
            let line = self.line()?.to_ascii_lowercase();
            match line.split_once(':') {
                None => break,
                Some(("content-length", value)) => length = value.trim().parse()?,
                Some(("transfer-encoding", value)) => is_chunked = value.trim() == "chunked",
                Some(_) => {}
            }
        }
        let mut body = Vec::new();
        if !is_chunked {
            self.read(length, &mut body)?;
        }
        while is_chunked {
            let size = usize::from_str_radix(&self.line()?, 16)?;
            self.read(size, &mut body)?;
            self.line()?;
            is_chunked = size > 0;
        }
        Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
    }

    fn read(&mut self, length: usize, body: &mut Vec<u8>) -> Result<()> {
        let start = body.len();
        body.resize(start + length, 0);
        Ok(self.0.read_exact(&mut body[start..])?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            bail!("the connection was closed");
        }
        Ok(line.trim_end().to_owned())
    }
}

/// Serves `body` to everybody until the process ends; says on which port.
pub fn serve(body: &'static str) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                // Whatever ends a connection ends only that connection.
                let _ = answer_all(stream, body);
            });
        }
    });
    Ok(port)
}

/// Answers requests without a body one after the other.
fn answer_all(stream: TcpStream, body: &str) -> Result<()> {
    stream.set_nodelay(true)?;
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line == "\r\n" {
            reader.get_mut().write_all(answer.as_bytes())?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_and_server_understand_each_other() {
        let mut connection = Connection::open(serve("red").unwrap()).unwrap();
        for _ in 0..3 {
            let answer = connection.request("GET", "/", "").unwrap();
            assert_eq!((answer.status, answer.body.as_str()), (200, "red"));
        }
    }
}
