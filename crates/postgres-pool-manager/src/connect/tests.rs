//! What each connection has of its own, so that those opened together do not end or are not exercised together.

use super::*;
use crate::Config;
use local_stack::{PostgresOptions, Stack};

#[tokio::test]
async fn connections_opened_together_grow_old_one_by_one() {
    let stack = Stack::builder().postgres(PostgresOptions::default()).start().await.unwrap();
    let db = stack.database().await.unwrap();
    let max_lifetime = Duration::from_secs(1000);
    let manager = Config { max_lifetime, ..Config::new(db.url()) }.connect().await.unwrap();
    let (mut lives, mut rhythms) = (Vec::new(), Vec::new());
    for _ in 0..24 {
        let conn = open(&manager.router().primary()).await.unwrap();
        lives.push(conn.expires.saturating_since(conn.idle_since).as_secs_f64());
        rhythms.push(conn.keepalive_jitter);
    }
    // Of 24 evenly spread all fall into the same half of the range once in eight million runs.
    for (what, of, least, most) in [("lifetime", lives, 750.0, 1000.0), ("keepalive", rhythms, 0.8, 1.2)] {
        let (low, high) =
            of.iter().fold((f64::MAX, f64::MIN), |(low, high), one| (low.min(*one), high.max(*one)));
        assert!(least <= low && high <= most, "{what} {low} to {high}");
        assert!(low < (least + most) / 2.0 && high > (least + most) / 2.0, "{what} {low} to {high}");
    }
}
