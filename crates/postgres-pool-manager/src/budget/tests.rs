//! Random fleets: the budget is never exceeded, and what is wanted arrives where it is fair.

use super::*;
use proptest::prelude::*;

fn claim(share: u32, wants: u32, most: u32) -> Claim {
    Claim { share, wants, most }
}

#[test]
fn fair_shares_by_example() {
    let of = |budget, wants: &[u32]| {
        let claims: Vec<_> = wants.iter().map(|w| claim(0, *w, 100)).collect();
        fair_shares(budget, &claims)
    };
    assert_eq!(of(36, &[100]), [36]);
    assert_eq!(of(36, &[100, 100, 100]), [12, 12, 12]);
    assert_eq!(of(36, &[100, 2]), [27, 9], "one at rest can start with half of an equal share");
    assert_eq!(of(36, &[5, 100, 8, 100]), [5, 11, 8, 12], "a remainder goes to the last of equals");
    assert_eq!(
        fair_shares(36, &[claim(0, 100, 3), claim(0, 100, 100)]),
        [3, 33],
        "no more than its settings allow"
    );
    assert_eq!(of(3, &[9, 9, 9, 9]), [0, 1, 1, 1], "too many for the budget");
}

#[test]
fn decisions_by_example() {
    // Alone: everything, at rest too.
    assert_eq!(decide(36, 0, &[claim(0, 1, 100)]), 36);
    assert_eq!(decide(36, 0, &[claim(0, 1, 10)]), 10);
    // A newcomer lacks its share: the one who has everything gives back, and keeps its own.
    let claims = [claim(36, 100, 100), claim(0, 100, 100)];
    assert_eq!((decide(36, 0, &claims), decide(36, 1, &claims)), (18, 0));
    // Given back, it is taken.
    assert_eq!(decide(36, 1, &[claim(18, 100, 100), claim(0, 100, 100)]), 18);
    // What the other leaves is used, and given back when it is lacked.
    assert_eq!(decide(36, 0, &[claim(18, 100, 100), claim(9, 1, 100)]), 27);
    assert_eq!(decide(36, 0, &[claim(27, 100, 100), claim(9, 100, 100)]), 18);
    // Nobody lacks anything: nothing moves.
    assert_eq!(decide(36, 0, &[claim(27, 1, 100), claim(9, 1, 100)]), 27);
    // More is held than there is, as after a smaller budget.
    assert_eq!(decide(20, 0, &[claim(27, 100, 100), claim(9, 1, 100)]), 15);
}

fn fleet() -> impl Strategy<Value = (u32, Vec<Claim>)> {
    let claim = (0_u32..60, 1_u32..60).prop_map(|(wants, most)| Claim { share: 0, wants, most });
    (4_u32..120, proptest::collection::vec(claim, 1..12))
}

proptest! {
    #[test]
    fn fair_is_fair((budget, claims) in fleet()) {
        let fair = fair_shares(budget, &claims);
        let n = claims.len() as u32;
        prop_assert!(fair.iter().sum::<u32>() <= budget);
        for (share, claim) in fair.iter().zip(&claims) {
            prop_assert!(*share <= claim.most);
            let by_right = claim.wants.min(claim.most).min(budget / n);
            prop_assert!(*share >= by_right, "{share} of {by_right}");
            // The minimum of one that wants nothing.
            prop_assert!(*share >= (budget / (2 * n)).min(claim.most));
        }
    }

    /// Instances decide in any order, wants change, instances die and come; connections in use end late.
    #[test]
    fn the_budget_holds_and_everybody_arrives_at_what_is_fair(
        (budget, mut claims) in fleet(),
        steps in proptest::collection::vec((0_usize..12, 0_u32..60, 0_u8..10), 0..60),
    ) {
        // What is open lags behind what is granted, one connection a turn.
        let mut open = vec![0_u32; claims.len()];
        let turn = |claims: &mut Vec<Claim>, open: &mut Vec<u32>, me: usize| {
            let target = decide(budget, me, claims);
            if target >= open[me] {
                open[me] = target;
            } else {
                open[me] -= 1;
            }
            claims[me].share = target.max(open[me]);
        };
        for (at, wants, kind) in steps {
            let me = at % claims.len();
            match kind {
                0 => claims[me].wants = wants,
                // It dies, its lease ends with its connections, and another one comes in its place.
                1 => {
                    open[me] = 0;
                    claims[me] = Claim { share: 0, wants, most: claims[me].most };
                }
                _ => turn(&mut claims, &mut open, me),
            }
            let held: u32 = claims.iter().map(|claim| claim.share).sum();
            prop_assert!(held <= budget, "{held} of {budget}: {claims:?}");
        }
        for _ in 0..200 {
            for me in 0..claims.len() {
                turn(&mut claims, &mut open, me);
            }
        }
        let fair = fair_shares(budget, &claims);
        for (share, claim) in fair.iter().zip(&claims) {
            prop_assert!(claim.share >= *share, "{claims:?} is not {fair:?}");
            prop_assert!(claim.share <= claim.most);
        }
        // Nothing is left lying about that somebody's settings would take.
        let held: u32 = claims.iter().map(|claim| claim.share).sum();
        let most: u32 = claims.iter().map(|claim| claim.most).sum();
        prop_assert_eq!(held, budget.min(most));
    }
}
