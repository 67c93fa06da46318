//! Many keys at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cache_manager::{Level, RegionOptions};

use crate::world::{Memory, brisk};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_loads_what_is_missing_in_one_call() {
    let memory = Memory::new();
    let cache = memory.manager(brisk()).await.region::<u64>("numbers", RegionOptions::default()).unwrap();
    let other = memory.manager(brisk()).await.region::<u64>("numbers", RegionOptions::default()).unwrap();
    cache.set("a", 1).await.unwrap();
    other.set("b", 2).await.unwrap();
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let loader = move |mut keys: Vec<String>, _| async move {
        counted.fetch_add(1, Ordering::SeqCst);
        keys.sort();
        assert_eq!(keys, ["c", "d"]);
        Ok::<_, std::io::Error>(HashMap::from([("c".to_owned(), 3_u64)]))
    };
    let hits = cache.get_or_load_many(&["a", "b", "c", "d"], loader).await.unwrap();
    let hits: Vec<_> = hits.into_iter().map(Result::unwrap).collect();
    let values: Vec<_> = hits.iter().map(|hit| hit.value.as_deref().copied()).collect();
    assert_eq!(values, [Some(1), Some(2), Some(3), None]);
    let levels: Vec<_> = hits.iter().map(|hit| hit.level).collect();
    assert_eq!(levels, [Level::L1, Level::L2, Level::Loader, Level::Loader]);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    let values = cache.get_many(&["a", "c", "d", "e"]).await.unwrap();
    assert_eq!(
        values.iter().map(|v| v.as_deref().copied()).collect::<Vec<_>>(),
        [Some(1), Some(3), None, None]
    );
    cache.invalidate_many(&["a", "c"]).await.unwrap();
    assert_eq!(cache.get_many(&["a", "c"]).await.unwrap(), [None, None]);
    cache.set_many(vec![("a".to_owned(), 7), ("c".to_owned(), 8)]).await.unwrap();
    assert_eq!(other.get("c").await.unwrap().as_deref(), Some(&8));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overlapping_batches_of_two_processes_do_not_wait_for_each_other() {
    let memory = Memory::new();
    let one = memory.manager(brisk()).await.region::<u64>("numbers", RegionOptions::default()).unwrap();
    let two = memory.manager(brisk()).await.region::<u64>("numbers", RegionOptions::default()).unwrap();
    let load = |keys: Vec<String>, _| async move {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        Ok::<_, std::io::Error>(keys.into_iter().map(|key| (key, 1_u64)).collect::<HashMap<_, _>>())
    };
    let began = std::time::Instant::now();
    for round in 0..20 {
        let names: Vec<String> = (0..20).map(|n| format!("{round}-{n}")).collect();
        let keys: Vec<&str> = names.iter().map(String::as_str).collect();
        let back: Vec<&str> = keys.iter().rev().copied().collect();
        let all = tokio::join!(
            one.get_or_load_many(&keys, load),
            two.get_or_load_many(&back, load),
            one.get_or_load_many(&back, load)
        );
        for hits in [all.0, all.1, all.2] {
            assert!(hits.unwrap().iter().all(|hit| hit.as_ref().unwrap().value.as_deref() == Some(&1)));
        }
    }
    assert!(began.elapsed() < std::time::Duration::from_secs(8), "{:?}", began.elapsed());
}
