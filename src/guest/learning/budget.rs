//! How many frames a guest may have read: so many at once, and so many a second after that.
//!
//! A learner that has spent its budget does not read; what comes meanwhile waits in the socket, and what does not fit
//! there is lost before it costs anything.

use std::time::Duration;

/// What a guest has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// The moment from which all that was spent is earned again.
    paid_at: Duration,
}

/// Earning one frame takes this long.
const EACH: Duration = Duration::from_millis(50);
/// So many can be saved up.
const BURST: u32 = 50;

impl RateLimit {
    /// A full budget.
    pub fn new(now: Duration) -> RateLimit {
        RateLimit { paid_at: now }
    }

    /// Spends one frame, or tells how long to wait for it.
    pub fn spend(&mut self, now: Duration) -> Result<(), Duration> {
        let paid_at = self.paid_at.max(now) + EACH;
        let allowed = now + EACH * BURST;
        if paid_at > allowed {
            return Err(paid_at - allowed);
        }
        self.paid_at = paid_at;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_so_many_a_second() {
        let start = Duration::from_secs(9);
        let mut budget = RateLimit::new(start);
        let passed =
            |budget: &mut RateLimit, now: Duration| (0..1000).filter(|_| budget.spend(now).is_ok()).count();
        assert_eq!(passed(&mut budget, start), 50);
        assert_eq!(budget.spend(start), Err(EACH));
        assert_eq!(passed(&mut budget, start + Duration::from_secs(1)), 20);
        assert_eq!(passed(&mut budget, start + Duration::from_secs(1000)), 50);
    }

    #[test]
    fn the_wait_it_names_is_enough() {
        let mut now = Duration::from_secs(9);
        let mut budget = RateLimit::new(now);
        for _ in 0..200 {
            if let Err(wait) = budget.spend(now) {
                now += wait;
                assert_eq!(budget.spend(now), Ok(()));
            }
        }
    }
}
