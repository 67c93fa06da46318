//! Where the server listens: a TCP address or a Unix socket, and how each is taken without stealing it.
//!
//! A Unix socket appears under its name only when it already has mode 0600, and replaces the file of a server that
//! is gone, never that of one that answers.

use std::fmt;
use std::io;
use std::net::{TcpListener, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// `host:port`; port 0 takes a free one.
    Tcp(String),
    /// `unix:PATH`.
    Unix(PathBuf),
}

/// The text is no address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address to listen on: write HOST:PORT, as 127.0.0.1:8000, or unix:/path/to/socket")]
pub struct ListenParseError(String);

impl Default for Listen {
    fn default() -> Self {
        Self::Tcp("127.0.0.1:8000".to_owned())
    }
}

impl FromStr for Listen {
    type Err = ListenParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ListenParseError(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { Err(bad()) } else { Ok(Self::Unix(path.into())) };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let bare_ipv6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
        if host.is_empty() || bare_ipv6 || host.contains(['/', '@', ' ']) || port.parse::<u16>().is_err() {
            return Err(bad());
        }
        Ok(Self::Tcp(text.to_owned()))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The address cannot be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Somebody else listens there.
    #[error(
        "{listen} is taken by another program: stop that one, or listen elsewhere (HTTP_LISTEN, --listen)"
    )]
    Taken {
        /// The address asked for.
        listen: Listen,
    },
    /// Something that is no socket lies at the path.
    #[error("{} exists and is no socket: remove it, or listen elsewhere (HTTP_LISTEN, --listen)", path.display())]
    NotASocket {
        /// The path asked for.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot listen on {listen}: {source}")]
    Io {
        /// The address asked for.
        listen: Listen,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A listening socket that nobody reads from yet; clients that connect wait in the backlog.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// Removes the socket's file when the server ends.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _gone_already = std::fs::remove_file(&self.0);
    }
}

impl Listen {
    /// Takes the address; the second value is what was really taken (the port, if 0 was asked for).
    pub(crate) fn bind(&self) -> Result<(Socket, Listen), BindError> {
        match self {
            Self::Tcp(address) => self.bind_tcp(address).map_err(|source| match source.kind() {
                io::ErrorKind::AddrInUse => BindError::Taken { listen: self.clone() },
                _ => BindError::Io { listen: self.clone(), source },
            }),
            Self::Unix(path) => self.bind_unix(path),
        }
    }

    fn bind_tcp(&self, address: &str) -> io::Result<(Socket, Listen)> {
        let addresses: Vec<_> = address.to_socket_addrs()?.collect();
        let listener = TcpListener::bind(&addresses[..])?;
        listener.set_nonblocking(true)?;
        let taken = Self::Tcp(listener.local_addr()?.to_string());
        Ok((Socket::Tcp(listener), taken))
    }

    fn bind_unix(&self, path: &Path) -> Result<(Socket, Listen), BindError> {
        let failed = |source| BindError::Io { listen: self.clone(), source };
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(BindError::NotASocket { path: path.to_owned() });
            }
            Ok(_) if UnixStream::connect(path).is_ok() => {
                return Err(BindError::Taken { listen: self.clone() });
            }
            _ => {}
        }
        let name = path.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        let draft = path.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
        let listener = UnixListener::bind(&draft).map_err(failed)?;
        let placed = std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o600))
            .and_then(|()| std::fs::rename(&draft, path))
            .and_then(|()| listener.set_nonblocking(true));
        if let Err(source) = placed {
            let _best_effort = std::fs::remove_file(&draft);
            return Err(failed(source));
        }
        Ok((Socket::Unix(listener, SocketFile(path.to_owned())), self.clone()))
    }
}

#[cfg(test)]
mod tests;
