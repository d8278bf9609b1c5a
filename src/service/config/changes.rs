//! What differs between two configurations, by key.

use super::Config;

/// The keys among these in which two configurations differ. That none of them is missing here, the compiler sees.
macro_rules! differing {
    ($old:expr, $new:expr; $($key:ident)*) => {{
        let Config { $($key: _),* } = $old;
        [$((stringify!($key), $old.$key != $new.$key)),*]
    }};
}

impl Config {
    /// The keys that have another value in `new`.
    pub fn changes(&self, new: &Config) -> Vec<&'static str> {
        let keys = differing! {
            self, new;
            filter_dir standard_filters state_dir runtime_dir socket_group socket_mode socket_ro_mode log_level counters traffic
            traffic_check trace metrics fold_up_to placement checksum_guard host_to_guest grace max_clients max_client_requests keepalive_interval
            keepalive_count timeout confine
        };
        keys.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_key_is_named() {
        let old = Config::default();
        assert_eq!(old.changes(&old.clone()), [""; 0]);
        let new = Config { grace: std::time::Duration::ZERO, confine: false, ..Config::default() };
        assert_eq!(old.changes(&new), ["grace", "confine"]);
    }
}
