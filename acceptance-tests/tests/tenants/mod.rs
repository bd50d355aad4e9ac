//! A guest that attacks, its neighbours, and who watches.

pub mod attacks;
pub mod honest;
pub mod links;
pub mod tables;
pub mod tries;
pub mod watch;
pub mod world;
