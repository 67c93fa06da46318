//! The light load of `up --demo-load`: sets and gets through the admin transport of the running instance, so that
//! its health, metrics and statistics have something to show. Not a benchmark: HTTP costs more than the cache.

use std::time::Duration;

use anyhow::Context;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::catalogue;
use crate::workload::Workload;

/// Between two requests: about a hundred a second.
const PAUSE: Duration = Duration::from_millis(10);
/// A key that is not there yet is set; besides, every so-manieth request sets.
const SET_EVERY: u32 = 20;

#[derive(Debug)]
pub(crate) struct Load {
    authority: String,
    token: String,
}

impl Load {
    pub(crate) fn new(http: &str, token: &str) -> anyhow::Result<Self> {
        let authority = http.strip_prefix("http://").context("the instance's address is no http:// URL")?;
        Ok(Self { authority: authority.trim_end_matches('/').to_owned(), token: token.to_owned() })
    }

    /// Runs until it fails or is dropped.
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let stream = TcpStream::connect(&self.authority).await?;
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
        let _pump = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
        let mut walk = Workload::zipf(1).walk(0, 1);
        let mut timer = tokio::time::interval(PAUSE);
        for turn in 0_u32.. {
            timer.tick().await;
            let id = walk.next();
            let key = catalogue::key(id);
            let found = self.post(&mut sender, "get", &json!({"key": &key})).await?;
            if turn.is_multiple_of(SET_EVERY) || found["found"] == false {
                let set = json!({"key": &key, "value": catalogue::product(id), "ttl_seconds": 600});
                self.post(&mut sender, "set", &set).await?;
            }
        }
        Ok(())
    }

    async fn post(
        &self,
        sender: &mut SendRequest<Full<Bytes>>,
        action: &str,
        input: &Value,
    ) -> anyhow::Result<Value> {
        let request = hyper::Request::post(format!("/v1/cache/{action}"))
            .header("host", &self.authority)
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(serde_json::to_vec(input)?)))?;
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        anyhow::ensure!(status.is_success(), "cache {action}: {status}: {}", String::from_utf8_lossy(&body));
        Ok(serde_json::from_slice(&body)?)
    }
}
