//! The agent is no way in: a hostile guest can't make it write outside, hang or grow; nothing of ours
//! can be written or, where it is secret, read by others; secrets stay secret.

#[path = "no_way_in/deeds.rs"]
mod deeds;
#[path = "no_way_in/guests.rs"]
mod guests;
#[path = "no_way_in/modes.rs"]
mod modes;
#[path = "no_way_in/needles.rs"]
mod needles;
#[path = "no_way_in/secrets.rs"]
mod secrets;
