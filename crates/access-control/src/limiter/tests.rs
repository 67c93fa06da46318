//! Rates by a clock that the test turns.

use std::time::Duration;

use governor::clock::FakeRelativeClock;

use super::RateLimiter;
use crate::{Error, Permission, Rates, SecurityContext, Tier};

fn agent(name: &str, tier: Tier) -> SecurityContext {
    SecurityContext::new(name, tier).unwrap()
}

#[test]
fn each_tier_gets_its_rate_and_each_agent_its_own() {
    let clock = FakeRelativeClock::default();
    let limiter = RateLimiter::with_clock(Rates::default(), clock.clone());
    for (tier, rate) in [(Tier::Basic, 10), (Tier::Professional, 100), (Tier::Enterprise, 1_000)] {
        let (one, other) = (agent("one", tier), agent("other", tier));
        for _ in 0..rate {
            limiter.check(&one).unwrap();
        }
        let Err(Error::RateLimited { rate: told, retry_after, .. }) = limiter.check(&one) else {
            panic!("let through")
        };
        assert_eq!(told, rate);
        assert!(retry_after <= Duration::from_secs(1) / rate, "{retry_after:?}");
        limiter.check(&other).unwrap();
        clock.advance(retry_after);
        limiter.check(&one).unwrap();
        assert!(limiter.check(&one).is_err(), "refused requests must not earn anything");
    }
}

#[test]
fn agents_at_rest_are_forgotten() {
    let clock = FakeRelativeClock::default();
    let limiter = RateLimiter::with_clock(Rates::default(), clock.clone());
    for i in 0..20_000 {
        clock.advance(Duration::from_millis(10));
        limiter.check(&agent(&format!("agent {i}"), Tier::Basic)).unwrap();
    }
    assert!(limiter.0.tiers[0].len() < 5_000, "{} remembered", limiter.0.tiers[0].len());
}

#[test]
fn tiers_allow_more_and_more() {
    let rates = Rates::default();
    let basic = agent("a", Tier::Basic);
    assert_eq!(
        serde_json::to_value(basic.permissions(&rates)).unwrap(),
        serde_json::json!({"tier": "basic", "rate_limit": 10, "permissions": ["read", "write"]}),
    );
    basic.require(Permission::Write).unwrap();
    assert_eq!(
        basic.require(Permission::Admin).unwrap_err().to_string(),
        "agent a of tier basic has no permission to admin"
    );
    agent("root", Tier::Enterprise).require(Permission::Admin).unwrap();
    assert!(SecurityContext::new("", Tier::Basic).is_err());
    assert!(SecurityContext::new("a\nb", Tier::Basic).is_err());
}
