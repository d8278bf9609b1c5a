//! The engine as a value: events in, the next state, documents and answers out. No kernel and no clock.

mod filters;
mod journal;
mod learners;
mod ports;
mod random;
mod unread;
mod world;
