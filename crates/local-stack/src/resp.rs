//! The smallest Redis client: one connection, one command after the other, RESP2. Deliberately not a driver: it is
//! for starting servers, for faults, and for a test that wants to look at the server from outside.

use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// An answer of Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A null.
    Nil,
    /// A number.
    Int(i64),
    /// A status or a value; values that are not UTF-8 are shown with replacement characters.
    Text(String),
    /// A list.
    List(Vec<Reply>),
    /// An error, such as `WRONGTYPE …`.
    Error(String),
}

impl Reply {
    /// The text of a status or a value.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Nil | Self::Int(_) | Self::List(_) | Self::Error(_) => None,
        }
    }

    /// The number.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            Self::Nil | Self::Text(_) | Self::List(_) | Self::Error(_) => None,
        }
    }

    /// The items of a list; none of anything else.
    pub fn items(&self) -> &[Self] {
        match self {
            Self::List(items) => items,
            Self::Nil | Self::Int(_) | Self::Text(_) | Self::Error(_) => &[],
        }
    }

    /// The value after this name in a list of names and values.
    pub(crate) fn named(&self, name: &str) -> Option<&str> {
        let pairs = self.items().chunks_exact(2);
        pairs.map(|pair| (pair[0].as_text(), pair[1].as_text())).find(|(key, _)| *key == Some(name))?.1
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nil => f.write_str("(nil)"),
            Self::Int(number) => write!(f, "{number}"),
            Self::Text(text) | Self::Error(text) => f.write_str(text),
            Self::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if index == 0 { "" } else { " " })?;
                }
                Ok(())
            }
        }
    }
}

/// Where a server listens and how to log in.
#[derive(Clone)]
pub(crate) struct Access {
    pub(crate) at: At,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Access({:?})", self.at)
    }
}

/// A socket in the file system, or host and port.
#[derive(Debug, Clone)]
pub(crate) enum At {
    Socket(PathBuf),
    Tcp(String, u16),
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// Connects, logs in, and runs one command. `patience` bounds every single read and write.
pub(crate) fn command(access: &Access, words: &[&str], patience: Duration) -> io::Result<Reply> {
    let stream: Box<dyn Stream> = match &access.at {
        At::Socket(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(patience))?;
            stream.set_write_timeout(Some(patience))?;
            Box::new(stream)
        }
        At::Tcp(host, port) => {
            let mut addresses = (host.as_str(), *port).to_socket_addrs()?;
            let address = addresses.next().ok_or_else(|| io::Error::other("the host has no address"))?;
            let stream = TcpStream::connect_timeout(&address, patience)?;
            stream.set_read_timeout(Some(patience))?;
            stream.set_write_timeout(Some(patience))?;
            Box::new(stream)
        }
    };
    let mut stream = BufReader::new(stream);
    if let Some(password) = &access.password {
        let login: Vec<&str> =
            ["AUTH"].into_iter().chain(access.username.as_deref()).chain([password.as_str()]).collect();
        if let Reply::Error(message) = exchange(&mut stream, &login)? {
            return Ok(Reply::Error(message));
        }
    }
    exchange(&mut stream, words)
}

fn exchange(stream: &mut BufReader<Box<dyn Stream>>, words: &[&str]) -> io::Result<Reply> {
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    stream.get_mut().write_all(request.as_bytes())?;
    parse(stream, 0)
}

fn parse(stream: &mut dyn io::BufRead, depth: u8) -> io::Result<Reply> {
    let garbled = || io::Error::new(io::ErrorKind::InvalidData, "not the Redis protocol");
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let line = line.trim_end_matches(['\r', '\n']);
    let (kind, rest) = line.split_at_checked(1).ok_or_else(garbled)?;
    let number = || rest.parse::<i64>().map_err(|_| garbled());
    Ok(match kind {
        "+" => Reply::Text(rest.to_owned()),
        "-" => Reply::Error(rest.to_owned()),
        ":" => Reply::Int(number()?),
        "$" | "*" if rest == "-1" => Reply::Nil,
        "$" => {
            let length = usize::try_from(number()?).map_err(|_| garbled())?;
            let mut value = Vec::new();
            Read::take(&mut *stream, length as u64 + 2).read_to_end(&mut value)?;
            value.truncate(length);
            Reply::Text(String::from_utf8_lossy(&value).into_owned())
        }
        "*" if depth < 16 => {
            let length = number()?;
            Reply::List((0..length).map(|_| parse(stream, depth + 1)).collect::<io::Result<_>>()?)
        }
        _ => return Err(garbled()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> io::Result<Reply> {
        parse(&mut &bytes[..], 0)
    }

    #[test]
    fn every_kind_of_answer() {
        assert_eq!(of(b"+OK\r\n").expect("status"), Reply::Text("OK".into()));
        assert_eq!(of(b"$-1\r\n").expect("nil"), Reply::Nil);
        assert_eq!(of(b"$4\r\na\r\nb\r\n").expect("value").as_text(), Some("a\r\nb"));
        let list = Reply::List(vec![Reply::Int(1), Reply::Error("ERR x".into())]);
        assert_eq!(of(b"*2\r\n:1\r\n-ERR x\r\n").expect("list"), list);
        assert!(of(b"").is_err() && of(b"?\r\n").is_err());
    }
}
