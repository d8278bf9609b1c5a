//! What a reload makes of a configuration that was edited: the log's level changes at once, every other key at the next start,
//! and a file with a fault changes nothing.

use crate::service::config::{Config, Options};
use crate::service::logging::Level;
use tracing::{error, info, warn};

/// The command line that the daemon was started with, and the log whose level it may change.
pub(super) struct Settings {
    options: Options,
    level: Level,
}

impl Settings {
    pub(super) fn new(options: &Options, level: Level) -> Settings {
        Settings { options: options.clone(), level }
    }

    /// Reads the file again, and says what of it is not in force.
    pub(super) fn reload(&self, running: &mut Config) {
        let new = match Config::load(&self.options) {
            Ok(new) => new,
            Err(fault) => {
                error!(reason = %fault, "configuration not read: all keys stay as they were");
                return;
            }
        };
        if new.log_level != running.log_level {
            running.log_level = new.log_level;
            self.level.set(new.log_level);
            info!(log_level = ?new.log_level, "changed");
        }
        let waiting = running.changes(&new);
        if !waiting.is_empty() {
            warn!(
                keys = waiting.join(", "),
                "changed in the configuration, but not in force before the daemon is restarted"
            );
        }
    }
}
