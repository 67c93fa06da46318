//! The smallest Postgres client: log in where nothing is asked (the trusted socket), simple queries, text answers.
//! Deliberately not a driver: it is for starting servers and cloning databases within milliseconds.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// One row, columns as text.
pub type Row = Vec<Option<String>>;

/// What went wrong below the level of [`Error`](crate::Error).
#[derive(Debug)]
pub(crate) enum Failure {
    /// The connection.
    Io(io::Error),
    /// The server's own answer.
    Server { code: String, message: String },
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// One connection over the server's socket.
#[derive(Debug)]
pub(crate) struct Client {
    stream: UnixStream,
}

impl Client {
    /// Logs in as `postgres`. `patience` bounds every single read and write.
    pub(crate) fn connect(socket: &Path, database: &str, patience: Duration) -> Result<Self, Failure> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let mut client = Self { stream };
        let mut body = 196_608_u32.to_be_bytes().to_vec(); // protocol 3.0
        for (name, value) in
            [("user", "postgres"), ("database", database), ("application_name", "local-stack")]
        {
            body.extend_from_slice(name.as_bytes());
            body.push(0);
            body.extend_from_slice(value.as_bytes());
            body.push(0);
        }
        body.push(0);
        client.send(None, &body)?;
        client.until_ready()?;
        Ok(client)
    }

    /// Runs statements separated by semicolons; the rows of all of them.
    pub(crate) fn query(&mut self, sql: &str) -> Result<Vec<Row>, Failure> {
        let mut body = sql.as_bytes().to_vec();
        body.push(0);
        self.send(Some(b'Q'), &body)?;
        self.until_ready()
    }

    fn until_ready(&mut self) -> Result<Vec<Row>, Failure> {
        let (mut rows, mut failure) = (Vec::new(), None);
        loop {
            let (kind, body) = self.receive()?;
            match kind {
                b'Z' => return failure.map_or(Ok(rows), Err),
                b'D' => rows.push(parse_row(&body).ok_or_else(garbled)?),
                b'E' => {
                    let refused = parse_error(&body);
                    // FATAL ends the connection: no more is coming.
                    if refused.0 {
                        return Err(refused.1);
                    }
                    failure = Some(refused.1);
                }
                b'R' if body != [0, 0, 0, 0] => {
                    return Err(Failure::Io(io::Error::other(
                        "the server asks for a password on its own socket",
                    )));
                }
                _ => {}
            }
        }
    }

    fn send(&mut self, kind: Option<u8>, body: &[u8]) -> io::Result<()> {
        let length = u32::try_from(body.len() + 4).map_err(io::Error::other)?;
        let mut message: Vec<u8> = kind.into_iter().collect();
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(body);
        self.stream.write_all(&message)
    }

    fn receive(&mut self) -> Result<(u8, Vec<u8>), Failure> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let mut body = vec![0; length.checked_sub(4).filter(|length| *length < 1 << 30).ok_or_else(garbled)?];
        self.stream.read_exact(&mut body)?;
        Ok((head[0], body))
    }
}

fn garbled() -> Failure {
    Failure::Io(io::Error::new(io::ErrorKind::InvalidData, "not the Postgres protocol"))
}

fn parse_row(body: &[u8]) -> Option<Row> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut row = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>()?;
        rest = after;
        row.push(match usize::try_from(i32::from_be_bytes(*length)) {
            Ok(length) => {
                let (value, after) = rest.split_at_checked(length)?;
                rest = after;
                Some(String::from_utf8_lossy(value).into_owned())
            }
            Err(_) => None,
        });
    }
    Some(row)
}

// Fields of a letter and a text: S severity, C code, M message. Whether it was fatal, and the failure.
fn parse_error(body: &[u8]) -> (bool, Failure) {
    let (mut fatal, mut code, mut message) = (false, String::new(), String::new());
    for field in body.split(|byte| *byte == 0) {
        let Some((kind, text)) = field.split_first() else { continue };
        let text = || String::from_utf8_lossy(text).into_owned();
        match kind {
            b'S' => fatal = matches!(text().as_str(), "FATAL" | "PANIC"),
            b'C' => code = text(),
            b'M' => message = text(),
            _ => {}
        }
    }
    (fatal, Failure::Server { code, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_text_and_null() {
        let body = [0, 2, 0, 0, 0, 2, b'h', b'i', 255, 255, 255, 255];
        assert_eq!(parse_row(&body), Some(vec![Some("hi".to_owned()), None]));
        assert_eq!(parse_row(&body[..7]), None);
    }

    #[test]
    fn a_fatal_error() {
        let (fatal, failure) = parse_error(b"SFATAL\0C57P03\0Mthe database system is starting up\0\0");
        assert!(fatal);
        assert!(matches!(failure, Failure::Server { code, .. } if code == "57P03"));
    }
}
