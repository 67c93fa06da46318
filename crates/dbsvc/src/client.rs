//! The HTTP client: finds a running instance, talks to it over TCP or a Unix socket, one request a connection.
//!
//! Not here: TLS. An instance behind a TLS proxy is reached through its Unix socket or its loopback address.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use ops_http::{Problem, Token};
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::task::AbortOnDropHandle;

use crate::cli::Instance;
use crate::exit::{Exit, Failed};

/// Longest answer that is read.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// A running instance.
#[derive(Debug)]
pub(crate) struct Client {
    target: Target,
    /// The address as the user gave it, for messages.
    url: String,
    token: Option<Token>,
    timeout: Duration,
}

#[derive(Debug)]
enum Target {
    Tcp { authority: String, prefix: String },
    Unix(PathBuf),
}

/// A status and a body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

/// What `cargo xtask up --json FILE` writes, as far as it is needed here.
#[derive(Debug, Deserialize)]
struct UpFile {
    http: String,
    admin_token: Option<String>,
}

impl Client {
    /// Finds the instance: `--up`, else `--url` with `--token-file`, else `DBSVC_URL` with `DBSVC_TOKEN`.
    pub(crate) fn find(instance: &Instance) -> Result<Self, Failed> {
        let (url, token) = if let Some(file) = &instance.up {
            from_up_file(file)?
        } else if let Some(url) = &instance.url {
            (url.clone(), None)
        } else {
            return Err(Failed::usage(
                "no instance is named: give --url URL --token-file FILE, or --up FILE, or set DBSVC_URL and DBSVC_TOKEN",
            ));
        };
        let token = match (&instance.token_file, token, &instance.token) {
            (Some(file), _, _) => {
                Some(Token::read(file).map_err(|error| usage_chain("--token-file", error))?)
            }
            (None, Some(token), _) => Some(token),
            (None, None, Some(crate::cli::Secret(text))) => {
                Some(Token::parse(text).map_err(|error| usage_chain("DBSVC_TOKEN", error))?)
            }
            (None, None, None) => None,
        };
        Ok(Self { target: Target::parse(&url)?, url, token, timeout: Duration::from_secs(instance.timeout) })
    }

    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// `GET path`, whatever the status.
    pub(crate) async fn get(&self, path: &str) -> Result<Answer, Failed> {
        self.send(Method::GET, path, Bytes::new()).await
    }

    /// `GET path` that must succeed.
    pub(crate) async fn get_ok(&self, path: &str) -> Result<Value, Failed> {
        self.get(path).await?.ok()
    }

    /// `POST /v1/{component}/{action}` that must succeed.
    pub(crate) async fn admin(&self, component: &str, action: &str, input: &Value) -> Result<Value, Failed> {
        let body = serde_json::to_vec(input).context("encoding the input")?;
        let path = format!("/v1/{}/{}", segment(component)?, segment(action)?);
        self.send(Method::POST, &path, body.into()).await?.ok()
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, Failed> {
        let exchange = async {
            let Connected { response, pump: _pump } = self.open(method, path, body).await?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|error| self.unreachable(&format!("reading the answer: {error}")))?;
            Ok(Answer { status, body: read(&body.to_bytes()) })
        };
        tokio::time::timeout(self.timeout, exchange).await.map_err(|_elapsed| self.silent())?
    }

    /// One request; the beginning of its answer.
    async fn open(&self, method: Method, path: &str, body: Bytes) -> Result<Connected, Failed> {
        let opened = match &self.target {
            Target::Tcp { authority, prefix } => {
                let stream = TcpStream::connect(authority).await.map_err(|error| self.unreachable(&error))?;
                talk(stream, self.request(method, &format!("{prefix}{path}"), authority, body)?).await
            }
            Target::Unix(socket) => {
                let stream = UnixStream::connect(socket).await.map_err(|error| self.unreachable(&error))?;
                talk(stream, self.request(method, path, "localhost", body)?).await
            }
        };
        opened.map_err(|error| self.unreachable(&format!("{error:#}")))
    }

    fn unreachable(&self, error: &dyn std::fmt::Display) -> Failed {
        Failed::unreachable(format!(
            "cannot reach {}: {error}; is `dbsvc serve` running there? (--url, DBSVC_URL, --up)",
            self.url
        ))
    }

    /// `GET path` that answers a line at a time, for as long as `line` says that it wants more. Only the beginning has a
    /// time limit.
    pub(crate) async fn lines(
        &self,
        path: &str,
        mut line: impl FnMut(&str) -> Result<bool, Failed>,
    ) -> Result<(), Failed> {
        let opened = tokio::time::timeout(self.timeout, self.open(Method::GET, path, Bytes::new())).await;
        let Connected { response, pump: _pump } = opened.map_err(|_elapsed| self.silent())??;
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let mut rest = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|error| Failed::unreachable(format!("{} went away: {error}", self.url)))?;
            rest.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            if rest.len() > MAX_ANSWER {
                return Err(Failed::failure(format!("{} sent a line of over 16 MiB", self.url)));
            }
            while status == 200
                && let Some(end) = rest.iter().position(|byte| *byte == b'\n')
            {
                let text = String::from_utf8_lossy(&rest[..end]).into_owned();
                rest.drain(..=end);
                if !line(&text)? {
                    return Ok(());
                }
            }
        }
        if status == 200 {
            return Err(Failed::unreachable(format!("{} has ended", self.url)));
        }
        Answer { status, body: read(&rest) }.ok().map(drop)
    }

    fn silent(&self) -> Failed {
        Failed::unreachable(format!(
            "{} did not answer within {} s; see its log, or allow more with --timeout",
            self.url,
            self.timeout.as_secs()
        ))
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        host: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, Failed> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, host)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            let mut value = header::HeaderValue::from_str(&format!("Bearer {}", token.expose())).map_err(
                |_invisible| Failed::usage("the admin token holds characters that HTTP cannot carry"),
            )?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        request
            .body(Full::new(body))
            .map_err(|error| Failed::usage(format!("the request cannot be made: {error}")))
    }
}

/// An answer that has begun, and what moves its bytes.
struct Connected {
    response: Response<Incoming>,
    pump: AbortOnDropHandle<hyper::Result<()>>,
}

async fn talk<S>(stream: S, request: Request<Full<Bytes>>) -> anyhow::Result<Connected>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let pump = AbortOnDropHandle::new(tokio::spawn(connection));
    Ok(Connected { response: sender.send_request(request).await?, pump })
}

/// JSON, or text where it is none.
fn read(body: &[u8]) -> Value {
    serde_json::from_slice(body)
        .unwrap_or_else(|_not_json| Value::String(String::from_utf8_lossy(body).into_owned()))
}

impl Answer {
    /// The body of a success; a problem becomes a failure with its exit code.
    pub(crate) fn ok(self) -> Result<Value, Failed> {
        if (200..300).contains(&self.status) {
            return Ok(self.body);
        }
        let Ok(problem) = serde_json::from_value::<Problem>(self.body.clone()) else {
            return Err(Failed::failure(format!(
                "the instance answered with status {} and no explanation; is it an instance of this service?",
                self.status
            )));
        };
        let exit = match self.status {
            400 | 401 | 403 | 404 | 405 | 413 | 415 | 422 => Exit::Usage,
            _ => Exit::Failure,
        };
        let mut message = format!("{} ({})", problem.detail, problem.code);
        if let Some(known) = problem.more.get("known").and_then(Value::as_array) {
            let known: Vec<&str> = known.iter().filter_map(Value::as_str).collect();
            message.push_str(&format!("; known: {}", known.join(", ")));
        }
        Err(Failed::new(exit, anyhow::anyhow!(message)).with_report(self.body))
    }
}

impl Target {
    fn parse(url: &str) -> Result<Self, Failed> {
        if let Some(path) = url.strip_prefix("unix:") {
            return Ok(Self::Unix(path.strip_prefix("//").unwrap_or(path).into()));
        }
        let bad = |why: &str| {
            Failed::usage(format!(
                "`{url}` {why}: write http://HOST:PORT or unix:/path/to/socket (--url, DBSVC_URL)"
            ))
        };
        let parsed = url::Url::parse(url).map_err(|_unparsable| bad("is no address"))?;
        match parsed.scheme() {
            "http" => {}
            "https" => return Err(bad("asks for TLS, which dbsvc does not speak yet")),
            _ => return Err(bad("is no address")),
        }
        let host = parsed.host_str().filter(|host| !host.is_empty()).ok_or_else(|| bad("names no host"))?;
        let port = parsed.port_or_known_default().unwrap_or(80);
        Ok(Self::Tcp {
            authority: format!("{host}:{port}"),
            prefix: parsed.path().trim_end_matches('/').to_owned(),
        })
    }
}

fn from_up_file(file: &Path) -> Result<(String, Option<Token>), Failed> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failed::usage(format!(
            "--up {shown}: {error}; it is the file that `cargo xtask up --json FILE` writes"
        ))
    })?;
    let up: UpFile = serde_json::from_str(&text).map_err(|error| {
        Failed::usage(format!("--up {shown}: {error}; it needs `http` and `admin_token`"))
    })?;
    let token = up.admin_token.as_deref().map(Token::parse).transpose();
    let token = token.map_err(|error| usage_chain(&format!("--up {shown}: `admin_token`"), error))?;
    Ok((up.http, token))
}

/// A part of a path; what would need escaping is no component or action.
fn segment(name: &str) -> Result<&str, Failed> {
    let plain =
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if plain { Ok(name) } else { Err(Failed::usage(format!("`{name}` is no component or action"))) }
}

/// A usage failure with everything below it.
fn usage_chain(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> Failed {
    Failed::usage(format!("{what}: {:#}", anyhow::Error::from(error)))
}

#[cfg(test)]
mod tests;
