//! Services on a real stack with a server before them, and a client of a few lines that can also misbehave.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use database_services::access_control::SecurityContext;
use database_services::settings::Settings;
use database_services::{DatabaseServices, ManagerMode, create_database_services};
use local_stack::{Database, Stack};
use ops_http::{Limits, Listen, ServeOptions, Server, Telemetry, Token};
use serde_json::Value;

pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Services, a server, and what they stand on.
pub(crate) struct Site {
    pub(crate) services: DatabaseServices,
    pub(crate) server: Server,
    pub(crate) token: Token,
    pub(crate) database: Database,
    pub(crate) stack: Stack,
}

impl Site {
    /// On the stack that all tests of this binary share: for tests that break nothing.
    pub(crate) async fn shared() -> Self {
        Self::on(Stack::shared().await.unwrap(), Limits::default()).await
    }

    pub(crate) async fn on(stack: Stack, limits: Limits) -> Self {
        Self::with(stack, limits, &[]).await
    }

    /// With further settings.
    pub(crate) async fn with(stack: Stack, limits: Limits, more: &[(&'static str, String)]) -> Self {
        Telemetry::install().unwrap();
        let database = stack.database().await.unwrap();
        let settings = [
            ("DATABASE_URL", database.url()),
            ("REDIS_URL", stack.redis_url()),
            ("REDIS_NAMESPACE", stack.redis_namespace()),
            // Three of these are the patience with a probe: more than its time-out, and than a busy machine's hiccup.
            ("HEALTH_INTERVAL", "1s".to_owned()),
            ("HEALTH_TIMEOUT", "1s".to_owned()),
        ];
        let settings = Settings::from_pairs(settings.into_iter().chain(more.iter().cloned())).unwrap();
        let services =
            create_database_services(ManagerMode::AsyncModern, settings, SecurityContext::default()).unwrap();
        services.initialize().await.unwrap();
        let token = Token::generate().unwrap();
        let server = Server::start(
            services.clone(),
            ServeOptions {
                listen: Listen::Tcp("127.0.0.1:0".to_owned()),
                token: Some(token.clone()),
                limits,
                ..ServeOptions::default()
            },
        )
        .unwrap();
        Self { services, server, token, database, stack }
    }

    pub(crate) fn address(&self) -> String {
        self.server.addr().to_string()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        ask(&self.address(), &request("GET", path, Some(&self.token), "")).await
    }

    pub(crate) async fn get_anonymous(&self, path: &str) -> Answer {
        ask(&self.address(), &request("GET", path, None, "")).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        ask(&self.address(), &request("POST", path, Some(&self.token), &body.to_string())).await
    }

    /// Waits until the endpoint answers with this status code.
    pub(crate) async fn until(&self, path: &str, status: u16) -> Answer {
        local_stack::wait_for(&format!("{path} answers {status}"), SOON, async || {
            self.get(path).await.status == status
        })
        .await;
        self.get(path).await
    }

    /// Waits until everything is well: just after the start the cache still catches up.
    pub(crate) async fn until_healthy(&self) {
        local_stack::wait_for("every component is healthy", SOON, async || {
            let all = self.get("/health/database-services").await.json();
            all.as_object().is_some_and(|all| all.values().all(|one| one["status"] == "healthy"))
        })
        .await;
    }

    pub(crate) async fn end(self) {
        self.server.shutdown(Duration::from_secs(5)).await;
        self.services.shutdown(Duration::from_secs(5)).await;
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn has_header(&self, line: &str) -> bool {
        self.head.to_ascii_lowercase().lines().any(|one| one == line)
    }
}

pub(crate) fn request(method: &str, path: &str, token: Option<&Token>, body: &str) -> String {
    let token =
        token.map(|token| format!("authorization: Bearer {}\r\n", token.expose())).unwrap_or_default();
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{token}content-length: {length}\r\n\r\n{body}"
    )
}

/// Sends these bytes and reads until the end, off the runtime.
pub(crate) async fn ask(address: &str, request: &str) -> Answer {
    let (address, request) = (address.to_owned(), request.to_owned());
    tokio::task::spawn_blocking(move || ask_blocking(&address, &request)).await.unwrap()
}

pub(crate) fn ask_blocking(address: &str, request: &str) -> Answer {
    let mut stream = connect(address);
    stream.write_all(request.as_bytes()).unwrap();
    answer(&mut stream)
}

pub(crate) fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

pub(crate) fn answer(stream: &mut impl Read) -> Answer {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_owned(), text: body.to_owned() }
}
