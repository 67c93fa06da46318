//! An order reaches the one it is meant for, and nobody who merely has the same number.

use super::*;
use crate::Config;
use local_stack::{PostgresOptions, Stack};

#[tokio::test]
async fn a_process_of_the_same_number_is_not_the_same_process() {
    let stack = Stack::builder().postgres(PostgresOptions::default()).start().await.unwrap();
    let db = stack.database().await.unwrap();
    let manager = Config::new(db.url()).connect().await.unwrap();
    let mut session = manager.write().await.unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut session).await.unwrap();
    let backend = session.lease().conn().slot.backend;
    assert_eq!(backend.pid, pid, "learnt when it was opened");
    let pool = manager.router().primary();
    let earlier = Backend { started: backend.started - 1, ..backend };
    for order in [Order::Cancel, Order::Terminate] {
        assert!(pool.order(order, earlier).await, "the server has answered");
    }
    let sleep = sqlx::query("SELECT pg_sleep(0.2)").execute(&mut session);
    let (slept, given) = tokio::join!(sleep, pool.order(Order::Cancel, earlier));
    assert!(slept.is_ok() && given, "{slept:?}");
    let sleep = sqlx::query("SELECT pg_sleep(30)").execute(&mut session);
    let cancel = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        pool.order(Order::Cancel, backend).await
    };
    let (slept, given) = tokio::join!(sleep, cancel);
    assert_eq!(crate::Error::from(slept.unwrap_err()).sqlstate().as_deref(), Some("57014"));
    assert!(given);
}
