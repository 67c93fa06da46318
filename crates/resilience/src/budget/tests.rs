//! The budget under paused time.

use super::*;

#[tokio::test(start_paused = true)]
async fn retries_are_a_share_of_calls() {
    let budget = RetryBudget::new(0.1, 0.0, 2);
    assert!(budget.try_withdraw() && budget.try_withdraw());
    assert!(!budget.try_withdraw());
    (0..10).for_each(|_| budget.deposit());
    assert!(budget.try_withdraw());
    assert!(!budget.try_withdraw());
}

#[tokio::test(start_paused = true)]
async fn time_grants_the_minimum_and_no_more_than_max() {
    let budget = RetryBudget::new(0.0, 2.0, 3);
    (0..3).for_each(|_| assert!(budget.try_withdraw()));
    assert!(!budget.try_withdraw());
    tokio::time::advance(Duration::from_millis(500)).await;
    assert!(budget.try_withdraw());
    assert!(!budget.try_withdraw());
    tokio::time::advance(Duration::from_secs(3600)).await;
    (0..3).for_each(|_| assert!(budget.try_withdraw()));
    assert!(!budget.try_withdraw());
}

#[tokio::test(start_paused = true)]
async fn frequent_refusals_do_not_round_the_time_away() {
    let budget = RetryBudget::new(0.0, 1.0, 1);
    assert!(budget.try_withdraw());
    let mut granted = 0;
    for _ in 0..10_000 {
        tokio::time::advance(Duration::from_micros(300)).await;
        granted += u32::from(budget.try_withdraw());
    }
    assert!((2..=3).contains(&granted), "{granted} in three seconds at one a second");
}
