//! The feed as a whole, without its waiting.

mod simulation;
