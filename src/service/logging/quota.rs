//! How often something may be logged that strangers can bring about as often as they like.

use std::time::{Duration, Instant};

/// So many lines in so much time; what comes beyond is counted.
#[derive(Debug)]
pub struct Quota {
    most: u32,
    per: Duration,
    began: Option<Instant>,
    logged: u32,
    left_out: u64,
}

impl Quota {
    /// At most `most` lines from each first one on, `per` that time.
    pub fn new(most: u32, per: Duration) -> Quota {
        Quota { most, per, began: None, logged: 0, left_out: 0 }
    }

    /// Whether a line may be written now, and how many were left out since the last one; none where it may not.
    pub fn ask(&mut self, now: Instant) -> Option<u64> {
        if self.began.is_none_or(|began| now.saturating_duration_since(began) >= self.per) {
            (self.began, self.logged) = (Some(now), 0);
        }
        if self.logged == self.most {
            self.left_out += 1;
            return None;
        }
        self.logged += 1;
        Some(std::mem::take(&mut self.left_out))
    }

    /// When it is time to tell how many were left out; none where none were.
    pub fn due(&self) -> Option<Instant> {
        if self.left_out == 0 {
            return None;
        }
        self.began.map(|began| began + self.per)
    }

    /// How many were left out, to be logged now.
    pub fn take(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // P-40
    #[test]
    fn what_comes_too_often_is_counted_and_reported_once() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut quota = Quota::new(2, second);
        let logged: Vec<_> = (0..100).map(|_| quota.ask(start)).collect();
        assert_eq!(logged.iter().flatten().count(), 2);
        assert_eq!(quota.due(), Some(start + second));
        assert_eq!(quota.ask(start + second), Some(98), "the next one tells");
        assert_eq!((quota.due(), quota.take()), (None, 0));
        let later = start + 2 * second;
        (0..5).for_each(|_| {
            let _ = quota.ask(later);
        });
        assert_eq!(quota.take(), 3, "or a caller that waits until it is due");
        assert_eq!(quota.due(), None);
    }
}
