//! What the daemon makes of interfaces that no bridge sees, and of those that come to a bridge or leave it.
