//! What has to hold under every schedule. Each property is one small world: a pool of two, a few callers of different
//! manners, perhaps an operator.

use crate::{
    core::Limits,
    pool::Pool,
    shell::{Entry, Keeper, Shell},
};
use shuttle::future::{JoinHandle, block_on, spawn, yield_now};
use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
};

/// Name and body, in the order in which they run.
pub(crate) const ALL: [(&str, fn()); 6] = [
    ("permits are neither lost nor doubled", permits),
    ("nobody waits beside an idle connection", idle),
    ("waiters are served in the order of their coming", order),
    ("who leaves is out of the queue", leaving),
    ("a shrink breaks no loan and holds its limit", shrink),
    ("suspended, resumed and closed, all are answered", phases),
];

const LIMITS: Limits = Limits { size: 2, overflow: 0, min_idle: 0, connecting: 2, queue: 8, cap: u32::MAX };

/// What a caller does.
#[derive(Clone, Copy)]
enum Manner {
    /// Takes, holds, gives back.
    Plain,
    /// Its connection breaks.
    Unlucky,
    /// Leaves after so many polls if not served.
    Hasty(u32),
}

fn caller(pool: &Arc<Pool>, manner: Manner) -> JoinHandle<bool> {
    let pool = Arc::clone(pool);
    spawn(async move {
        let loan = match manner {
            Manner::Hasty(polls) => pool.acquire_within(polls).await,
            Manner::Plain | Manner::Unlucky => pool.acquire().await,
        };
        let Some(mut loan) = loan else { return false };
        yield_now().await;
        loan.lost = matches!(manner, Manner::Unlucky);
        true
    })
}

async fn join(callers: Vec<JoinHandle<bool>>) -> Vec<bool> {
    let mut served = Vec::new();
    for caller in callers {
        served.push(caller.await.expect("a panic ends the whole run"));
    }
    served
}

/// Connecting tasks are nobody's children: they end when nobody wants a connection, the last of them perhaps while
/// handing one to a caller that has left.
async fn quiet(pool: &Pool) {
    while pool.book().opening > 0 {
        yield_now().await;
    }
}

fn permits() {
    block_on(async {
        let pool = Pool::new(LIMITS);
        let manners = [
            Manner::Plain,
            Manner::Hasty(0),
            Manner::Unlucky,
            Manner::Plain,
            Manner::Hasty(2),
            Manner::Unlucky,
        ];
        let served = join(manners.map(|manner| caller(&pool, manner)).into()).await;
        for (manner, served) in manners.iter().zip(served) {
            assert!(served || matches!(manner, Manner::Hasty(_)), "a patient caller was sent away");
        }
        quiet(&pool).await;
        pool.settled();
        assert!(pool.book().most <= 2, "{} at once", pool.book().most);
    });
}

fn idle() {
    block_on(async {
        let pool = Pool::new(LIMITS);
        let watcher = {
            let pool = Arc::clone(&pool);
            spawn(async move {
                for _ in 0..20 {
                    pool.look();
                    yield_now().await;
                }
                true
            })
        };
        let manners = [Manner::Plain, Manner::Plain, Manner::Hasty(1), Manner::Plain];
        let callers = manners.map(|manner| caller(&pool, manner));
        join(callers.into_iter().chain([watcher]).collect()).await;
        quiet(&pool).await;
        pool.settled();
    });
}

/// Five in the queue, of whom one leaves while two connections come back: those served are the first of the rest.
fn order() {
    block_on(async {
        let pool = Pool::new(LIMITS);
        let both = [pool.acquire().await, pool.acquire().await].map(|loan| loan.expect("the pool is open"));
        let mut places = Vec::new();
        for _ in 0..5 {
            let Entry::Queued(place) = Shell::enter(&pool) else { panic!("the pool is exhausted") };
            places.push(place);
        }
        let leaving = places.remove(1);
        let back = both.map(|loan| {
            spawn(async move {
                drop(loan);
                true
            })
        });
        yield_now().await;
        drop(leaving);
        join(back.into()).await;
        let mut served = Vec::new();
        for place in &mut places {
            let mut turn = pin!(place.turn());
            served.push(poll_fn(|cx| Poll::Ready(turn.as_mut().poll(cx))).await);
        }
        let ready: Vec<_> = served.iter().map(Poll::is_ready).collect();
        assert_eq!(ready, [true, true, false, false], "somebody was overtaken");
        drop((places, served));
        quiet(&pool).await;
        pool.settled();
    });
}

/// Nothing comes back while they wait: nobody but themselves takes them out.
fn leaving() {
    block_on(async {
        let pool = Pool::new(LIMITS);
        let both = (pool.acquire().await, pool.acquire().await);
        let served = join([0, 1, 3].map(|polls| caller(&pool, Manner::Hasty(polls))).into()).await;
        assert_eq!(
            (served.as_slice(), pool.counts().waiting),
            ([false; 3].as_slice(), 0),
            "waiting, though gone"
        );
        // One more leaves while a connection is handed to it, perhaps.
        let last = caller(&pool, Manner::Hasty(1));
        drop(both);
        join(vec![last]).await;
        quiet(&pool).await;
        pool.settled();
    });
}

fn shrink() {
    block_on(async {
        let pool = Pool::new(Limits { size: 3, ..LIMITS });
        let manners = [Manner::Plain, Manner::Plain, Manner::Hasty(1), Manner::Unlucky];
        let callers = manners.map(|manner| caller(&pool, manner));
        // In the middle of it, empty or exhausted as it may be.
        pool.resize(1);
        join(callers.into()).await;
        quiet(&pool).await;
        pool.settled();
        pool.book().most = 0;
        join(vec![caller(&pool, Manner::Plain), caller(&pool, Manner::Plain), caller(&pool, Manner::Plain)])
            .await;
        assert_eq!(pool.book().most, 1, "over the new limit");
        let callers = [Manner::Plain, Manner::Plain].map(|manner| caller(&pool, manner));
        pool.resize(2);
        join(callers.into()).await;
        quiet(&pool).await;
        pool.settled();
    });
}

fn phases() {
    block_on(async {
        let pool = Pool::new(LIMITS);
        let early = [Manner::Plain, Manner::Hasty(1), Manner::Plain].map(|manner| caller(&pool, manner));
        pool.shell().suspend();
        let late = caller(&pool, Manner::Plain);
        yield_now().await;
        Shell::resume(&pool);
        let served = join(early.into_iter().chain([late]).collect()).await;
        assert!(served[0] && served[2] && served[3], "{served:?}");
        let last = [Manner::Plain, Manner::Plain, Manner::Unlucky].map(|manner| caller(&pool, manner));
        pool.close();
        // Served or refused; nobody is left waiting.
        join(last.into()).await;
        quiet(&pool).await;
        pool.settled();
        assert_eq!(pool.counts().idle, 0, "closed means none is kept");
    });
}
