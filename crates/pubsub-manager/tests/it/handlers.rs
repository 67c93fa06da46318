//! Routes, requests and broadcasts, over both buses.

use crate::support::{PATIENCE, manager, namespace, next, quick, shared};
use local_stack::wait_for;
use pubsub_manager::{
    Codec, ConflateBy, Deps, Error, Event, HandlerLoss, HandlerOptions, MemoryBus, Message, PubSubManager,
    PublishOptions, Router, SlowConsumer, SubscribeOptions, TraceContext,
};
use resilience::Deadline;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// Two managers on one bus, as two processes have them.
async fn redis() -> (PubSubManager, PubSubManager) {
    let (port, namespace) = (shared().await.redis().master().port(), namespace());
    (manager(port, &namespace).await, manager(port, &namespace).await)
}

fn memory() -> (PubSubManager, PubSubManager) {
    let bus = MemoryBus::new();
    let manager = || quick().build(Deps::over(bus.clone())).expect("good settings");
    (manager(), manager())
}

fn within(time: Duration) -> PublishOptions {
    PublishOptions { deadline: Some(Deadline::after(time)), ..PublishOptions::default() }
}

#[tokio::test]
async fn requests_redis() {
    requests(redis().await).await;
}

#[tokio::test]
async fn requests_memory() {
    requests(memory()).await;
}

async fn requests((asking, answering): (PubSubManager, PubSubManager)) {
    let ask = asking.channel::<u64>("double").expect("a good name");
    let nobody = ask.request::<u64>(&1, within(PATIENCE)).await;
    assert!(matches!(nobody, Err(Error::NoResponder { .. })), "{nobody:?}");
    let answer = answering.channel::<u64>("double").expect("a good name");
    let options = HandlerOptions { concurrency: 64, ..HandlerOptions::default() };
    let handlers = answer
        .respond(options, |message: Message<u64>| async move {
            match message.value {
                0 => Err("nothing to double"),
                13 => panic!("bad luck"),
                14 => std::future::pending().await,
                value => Ok(2 * value),
            }
        })
        .await
        .expect("subscribed");
    // Everybody's answer is his own.
    let asked = (100..200_u64).map(|value| {
        let ask = ask.clone();
        tokio::spawn(async move { (value, ask.request::<u64>(&value, within(PATIENCE)).await) })
    });
    for one in asked.collect::<Vec<_>>() {
        let (value, reply) = one.await.expect("no panic");
        let reply = reply.expect("answered");
        assert_eq!((reply.value, reply.publisher), (2 * value, answering.publisher()));
    }
    match ask.request::<u64>(&0, within(PATIENCE)).await {
        Err(Error::Responder { reason }) => assert_eq!(reason, "nothing to double"),
        other => panic!("{other:?}"),
    }
    let panicked = ask.request::<u64>(&13, within(PATIENCE)).await;
    assert!(
        matches!(&panicked, Err(Error::Responder { reason }) if reason.contains("panic")),
        "{panicked:?}"
    );
    let other_type = ask.request::<String>(&1, within(PATIENCE)).await;
    assert!(matches!(other_type, Err(Error::Decode { .. })), "{other_type:?}");
    let started = Instant::now();
    let silent = ask.request::<u64>(&14, within(Duration::from_millis(300))).await;
    assert!(matches!(silent, Err(Error::Unknown { operation: "request" })), "{silent:?}");
    assert!(started.elapsed() >= Duration::from_millis(300));
    wait_for("counted", PATIENCE, async || handlers.stats().failed == 2).await;
    // A plain message is handled, too.
    ask.publish(&1).await.expect("published");
    wait_for("handled", PATIENCE, async || handlers.stats().handled == 100 + 4).await;
    handlers.shutdown(Duration::from_millis(100)).await;
    wait_for("the bus knows that nobody is there", PATIENCE, async || {
        matches!(ask.request::<u64>(&1, within(PATIENCE)).await, Err(Error::NoResponder { .. }))
    })
    .await;
}

#[tokio::test]
async fn a_broadcast_reaches_every_instance_and_says_so() {
    let (port, namespace) = (shared().await.redis().master().port(), namespace());
    let teller = manager(port, &namespace).await;
    let (mut instances, mut handlers) = (Vec::new(), Vec::new());
    for number in 0..4 {
        let instance = manager(port, &namespace).await;
        let channel = instance.channel::<String>("reload").expect("a good name");
        let handle = move |message: Message<String>| async move {
            assert_eq!(message.value, "settings");
            if number == 3 { Err("cannot read them") } else { Ok(()) }
        };
        handlers.push(channel.respond(HandlerOptions::default(), handle).await.expect("subscribed"));
        instances.push(instance);
    }
    let channel = teller.channel::<String>("reload").expect("a good name");
    let started = Instant::now();
    let mut told = channel.broadcast(&"settings".into(), within(PATIENCE)).await.expect("sent");
    assert!(started.elapsed() < PATIENCE, "it does not wait once all have answered");
    told.handled.sort_unstable();
    let mut all: Vec<_> = instances[..3].iter().map(PubSubManager::publisher).collect();
    all.sort_unstable();
    assert_eq!((told.receivers, &told.handled), (Some(4), &all));
    assert_eq!(told.failed, [(instances[3].publisher(), "cannot read them".to_owned())]);
    let replies = channel.request_all::<()>(&"settings".into(), within(PATIENCE)).await.expect("sent");
    assert_eq!(replies.iter().filter(|reply| reply.is_ok()).count(), 3);
}

#[tokio::test]
async fn routes_redis() {
    routes(redis().await).await;
}

#[tokio::test]
async fn routes_memory() {
    routes(memory()).await;
}

async fn routes((one, two): (PubSubManager, PubSubManager)) {
    let (orders, everything) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
    let (busy, most, gate) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let losses = Arc::new(Mutex::new(Vec::new()));
    let router = Router::new()
        .route("orders.created", HandlerOptions::default(), {
            let orders = Arc::clone(&orders);
            move |message: Message<u64>| {
                orders.lock().expect("no panic").push(message.value);
                async { Ok::<(), Error>(()) }
            }
        })
        .expect("a good name")
        .route("orders.>", HandlerOptions::default(), {
            let everything = Arc::clone(&everything);
            move |_: Message<u64>| {
                everything.fetch_add(1, SeqCst);
                async { Err("every one of them fails") }
            }
        })
        .expect("a good pattern")
        .route("mail.*", HandlerOptions { concurrency: 3, ..HandlerOptions::default() }, {
            let (busy, most, gate) = (Arc::clone(&busy), Arc::clone(&most), Arc::clone(&gate));
            move |_: Message<u64>| {
                let (busy, most, gate) = (Arc::clone(&busy), Arc::clone(&most), Arc::clone(&gate));
                async move {
                    most.fetch_max(busy.fetch_add(1, SeqCst) + 1, SeqCst);
                    gate.acquire().await.map_err(|closed| closed.to_string())?.forget();
                    busy.fetch_sub(1, SeqCst);
                    Ok::<(), String>(())
                }
            }
        })
        .expect("a good pattern")
        .on_loss({
            let losses = Arc::clone(&losses);
            move |loss: HandlerLoss| losses.lock().expect("no panic").push(loss.filter)
        });
    assert!(matches!(
        Router::new()
            .route("a..b", HandlerOptions::default(), |_: Message<u64>| async { Ok::<(), Error>(()) }),
        Err(Error::InvalidSubject { .. })
    ));
    let handlers = router.start(&two).await.expect("subscribed");
    let publish = async |name: &str, value: u64| {
        one.channel::<u64>(name).expect("a good name").publish(&value).await.expect("published");
    };
    for value in 0..10 {
        publish("orders.created", value).await;
    }
    publish("orders.cancelled", 10).await;
    for value in 0..6 {
        publish("mail.out", value).await;
    }
    wait_for("orders handled", PATIENCE, async || {
        everything.load(SeqCst) == 11 && handlers.stats().handled >= 21
    })
    .await;
    assert_eq!(
        *orders.lock().expect("no panic"),
        (0..10).collect::<Vec<_>>(),
        "one at a time keeps the order"
    );
    wait_for("three mails at once", PATIENCE, async || busy.load(SeqCst) == 3).await;
    gate.add_permits(4);
    wait_for("two more are begun", PATIENCE, async || handlers.stats().handled == 25).await;
    assert_eq!(most.load(SeqCst), 3, "never more at once than allowed");
    // Of another type: a loss, told with the name of the route.
    one.channel::<String>("orders.odd").expect("a good name").publish(&"x".into()).await.expect("published");
    wait_for("told", PATIENCE, async || *losses.lock().expect("no panic") == ["orders.>"]).await;
    assert_eq!(handlers.stats().failed, 11);
    // What is being worked on may end.
    gate.add_permits(2);
    handlers.shutdown(PATIENCE).await;
    assert_eq!(busy.load(SeqCst), 0);
    wait_for("nothing is subscribed to any more", PATIENCE, async || two.stats().subscribed == 0).await;
}

#[tokio::test]
async fn handlers_that_are_dropped_end_at_once() {
    let (one, two) = memory();
    let (begun, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    struct Ends(Arc<AtomicUsize>);
    impl Drop for Ends {
        fn drop(&mut self) {
            self.0.fetch_add(1, SeqCst);
        }
    }
    let handler = {
        let (begun, ended) = (Arc::clone(&begun), Arc::clone(&ended));
        move |_: Message<u64>| {
            let ends = Ends(Arc::clone(&ended));
            begun.fetch_add(1, SeqCst);
            async move {
                std::future::pending::<()>().await;
                drop(ends);
                Ok::<(), Error>(())
            }
        }
    };
    let router = Router::new().route("n", HandlerOptions::default(), handler).expect("a good name");
    let handlers = router.start(&two).await.expect("subscribed");
    one.channel::<u64>("n").expect("a good name").publish(&1).await.expect("published");
    wait_for("begun", PATIENCE, async || begun.load(SeqCst) == 1).await;
    drop(handlers);
    wait_for("ended", PATIENCE, async || ended.load(SeqCst) == 1 && two.stats().subscribed == 0).await;
}

#[tokio::test]
async fn states_are_conflated_end_to_end() {
    let (one, two) = redis().await;
    let by = ConflateBy::value(|price: &(String, u64)| price.0.clone());
    let options = SubscribeOptions {
        capacity: 10,
        slow_consumer: SlowConsumer::Conflate(by),
        ..SubscribeOptions::default()
    };
    let into = two.channel::<(String, u64)>("prices").expect("a good name");
    let mut subscription = into.subscribe(options).await.expect("subscribed");
    let out = one.channel::<(String, u64)>("prices").expect("a good name");
    for price in 1..=100 {
        for name in ["a", "b", "c"] {
            out.publish(&(name.to_owned(), price)).await.expect("published");
        }
    }
    wait_for("all arrived", PATIENCE, async || two.stats().received == 300).await;
    for name in ["a", "b", "c"] {
        let Event::Message(message) = next(&mut subscription).await else { panic!("no message") };
        assert_eq!((message.value, message.conflated), ((name.to_owned(), 100), 99));
    }
    assert_eq!((subscription.conflated(), subscription.dropped()), (297, 0));
}

#[tokio::test]
async fn the_trace_travels_and_so_do_cloud_events() {
    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let bus = MemoryBus::new();
    let deps = Deps { traceparent: Some(|| Some(TRACE.to_owned())), ..Deps::over(bus.clone()) };
    let one = quick().build(deps).expect("good settings");
    let two = quick().build(Deps::over(bus)).expect("good settings");
    let into = two.channel::<u64>("n").expect("a good name");
    let mut subscription = into.subscribe(SubscribeOptions::default()).await.expect("subscribed");
    let out = one.channel::<u64>("n").expect("a good name");
    out.publish(&1).await.expect("published");
    let own = TraceContext { trace_id: [7; 16], span_id: [7; 8], sampled: false };
    out.publish_with(&2, PublishOptions { trace: Some(own), ..PublishOptions::default() })
        .await
        .expect("published");
    two.channel::<u64>("n").expect("a good name").publish(&3).await.expect("published");
    out.with_codec(Codec::CloudEvents).publish(&4).await.expect("published");
    let mut traces = Vec::new();
    for value in 1..=4 {
        let Event::Message(message) = next(&mut subscription).await else { panic!("no message") };
        assert_eq!(message.value, value);
        traces.push(message.trace);
    }
    let at_hand = TraceContext::from_traceparent(TRACE);
    assert_eq!(traces, [at_hand, Some(own), None, at_hand]);
}

#[tokio::test]
async fn what_goes_on_is_listed() {
    let (one, two) = memory();
    let into = two.channel::<u64>("n").expect("a good name");
    let _first = into.subscribe(SubscribeOptions::default()).await.expect("subscribed");
    let _second = into.subscribe(SubscribeOptions::default()).await.expect("subscribed");
    let _pattern =
        two.subscribe_pattern::<u64>("a.>", SubscribeOptions::default()).await.expect("subscribed");
    let out = one.channel::<u64>("n").expect("a good name");
    for value in 0..5 {
        out.publish(&value).await.expect("published");
    }
    one.sharded_channel::<u64>("s").expect("a good name").publish(&1).await.expect("published");
    let channels: Vec<_> = one.channels().into_iter().map(|c| (c.subject, c.published, c.pending)).collect();
    assert_eq!(channels, [("n".to_owned(), 5, 0), ("s".to_owned(), 1, 0)]);
    wait_for("received, and its publisher known", PATIENCE, async || {
        let subscriptions = two.subscriptions();
        let [pattern, name] = &subscriptions[..] else { panic!("{subscriptions:?}") };
        assert!(pattern.confirmed && pattern.filter == "a.>" && pattern.subscribers.len() == 1);
        let waiting: Vec<_> = name.subscribers.iter().map(|one| (one.waiting, one.slow_consumer)).collect();
        (name.received, name.publishers) == (5, 1) && waiting == [(5, "drop_oldest"); 2]
    })
    .await;
}

#[tokio::test]
async fn a_handler_that_panics_before_there_is_a_future_costs_its_message_alone() {
    let (telling, routing) = memory();
    let (done, mut handled) = tokio::sync::mpsc::channel(8);
    let handle = move |message: Message<u64>| {
        assert_ne!(message.value, 13, "bad luck");
        let done = done.clone();
        async move { done.send(message.value).await.map_err(|error| error.to_string()) }
    };
    let router = Router::new().route("n", HandlerOptions::default(), handle).expect("a good name");
    let handlers = router.start(&routing).await.expect("subscribed");
    let n = telling.channel::<u64>("n").expect("a good name");
    for value in [13, 14] {
        n.publish(&value).await.expect("published");
    }
    let next = tokio::time::timeout(PATIENCE, handled.recv()).await.expect("in time");
    assert_eq!(next, Some(14));
    wait_for("both are counted", PATIENCE, async || handlers.stats().handled == 2).await;
    assert_eq!(handlers.stats().failed, 1);
    let ask = telling.channel::<u64>("ask").expect("a good name");
    let respond = |message: Message<u64>| {
        assert_ne!(message.value, 13, "bad luck");
        std::future::ready(Ok::<_, String>(message.value))
    };
    let answer = routing.channel::<u64>("ask").expect("a good name");
    let _responding = answer.respond(HandlerOptions::default(), respond).await.expect("subscribed");
    let failed = ask.request::<u64>(&13, within(PATIENCE)).await;
    assert!(matches!(&failed, Err(Error::Responder { .. })), "{failed:?}");
    assert_eq!(ask.request::<u64>(&14, within(PATIENCE)).await.expect("answered").value, 14);
}

#[tokio::test]
async fn who_answers_twice_is_one_of_those_that_are_waited_for() {
    let bus = MemoryBus::new();
    let manager = || quick().build(Deps::over(bus.clone())).expect("good settings");
    let (asking, eager, slow) = (manager(), manager(), manager());
    let channel = |manager: &PubSubManager| manager.channel::<u64>("n").expect("a good name");
    let mut asked = channel(&eager).subscribe(SubscribeOptions::default()).await.expect("subscribed");
    let answered = Arc::new(Semaphore::new(0));
    let wait = Arc::clone(&answered);
    let respond = move |message: Message<u64>| {
        let wait = Arc::clone(&wait);
        async move {
            let _both = wait.acquire_many(2).await.map_err(|error| error.to_string())?;
            Ok::<_, String>(message.value)
        }
    };
    let _slow = channel(&slow).respond(HandlerOptions::default(), respond).await.expect("subscribed");
    let answering = tokio::spawn(async move {
        let Some(Event::Message(message)) = asked.next().await else { panic!("a request") };
        let to = message.reply_to.expect("a request");
        for _ in 0..2 {
            eager.reply(to, &(), Deadline::after(PATIENCE)).await.expect("sent");
            answered.add_permits(1);
        }
        eager
    });
    let told = channel(&asking).broadcast(&1, within(PATIENCE)).await.expect("sent");
    let eager = answering.await.expect("it answers");
    assert_eq!(told.handled, [eager.publisher(), slow.publisher()]);
}
