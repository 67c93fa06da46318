//! How many connections an instance may have when the fleet shares a budget: the decision alone, from what every
//! instance holds and wants. It knows no database, no time and no pool; `keeper` carries it out.
//!
//! Fair shares are max-min fair: nobody gets more than it wants, and what is left is shared by those that want more. An
//! instance at rest counts as wanting half of an equal share, so that it can start at once when work arrives. What
//! nobody lacks, anybody may hold: a share is given back when somebody lacks it, and not before.

mod grant;
mod handle;
mod keeper;
mod table;

pub(crate) use handle::Budget;
pub use handle::BudgetStatus;
pub(crate) use table::MIGRATIONS;

/// What one instance holds and wants, in connections to one server, those beside its pool included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Held: no more than this are open.
    pub(crate) share: u32,
    /// Needed for the work at hand.
    pub(crate) wants: u32,
    /// The most that its settings allow.
    pub(crate) most: u32,
}

/// What is kept back of a budget: for the one connection with which a newcomer asks for its share, and for those that
/// the server has not finished closing.
pub(crate) const fn margin(budget: u32) -> u32 {
    let tenth = budget / 10;
    if tenth < 1 {
        1
    } else if tenth > 10 {
        10
    } else {
        tenth
    }
}

/// What each may have, in the order given. In total no more than `budget`.
pub(crate) fn fair_shares(budget: u32, claims: &[Claim]) -> Vec<u32> {
    let count = u32::try_from(claims.len()).unwrap_or(u32::MAX).max(1);
    let at_rest = (budget / (2 * count)).max(1);
    let wanted = |claim: &Claim| claim.wants.max(at_rest).min(claim.most);
    let mut order: Vec<usize> = (0..claims.len()).collect();
    order.sort_by_key(|&i| (wanted(&claims[i]), i));
    let (mut left, mut shares) = (budget, vec![0; claims.len()]);
    for (done, i) in order.into_iter().enumerate() {
        let others = count - u32::try_from(done).unwrap_or(0);
        shares[i] = wanted(&claims[i]).min(left / others);
        left -= shares[i];
    }
    shares
}

/// The share that instance `me` is to have now. Everybody decides for itself, one at a time, from the same claims in the
/// same order.
pub(crate) fn decide(budget: u32, me: usize, claims: &[Claim]) -> u32 {
    let fair = fair_shares(budget, claims);
    let held: u32 = claims.iter().map(|claim| claim.share).sum();
    let (free, excess) = (budget.saturating_sub(held), held.saturating_sub(budget));
    let lacks = |i: usize| fair[i].saturating_sub(claims[i].share);
    let lacking: u32 = (0..claims.len()).filter(|&i| i != me).map(lacks).sum();
    let Claim { share, most, .. } = claims[me];
    if share < fair[me] || (lacking <= free && excess == 0) {
        // What is mine by right, if it is free; and what is free and nobody lacks.
        let by_right = fair[me].min(share + free);
        let idle = most.min(share + free.saturating_sub(lacking));
        return by_right.max(idle).max(share.min(fair[me])).max(share.min(most));
    }
    // Somebody lacks what is not free: whoever holds more than its fair share gives back in proportion.
    let over = |i: usize| u64::from(claims[i].share.saturating_sub(fair[i]));
    let (mine, all): (u64, u64) = (over(me), (0..claims.len()).map(over).sum());
    let short = u64::from(lacking.saturating_sub(free).max(excess));
    let give = if all == 0 { 0 } else { (short * mine).div_ceil(all).min(mine) };
    (share - u32::try_from(give).unwrap_or(share)).min(most.max(fair[me]))
}

#[cfg(test)]
mod tests;
