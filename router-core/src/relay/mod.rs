//! Moving bytes between a client and a dyno: one exchange (`body`), an upgraded connection (`tunnel`).

mod body;
mod tunnel;

pub(crate) use body::{Ended, Fault, Plan, Relay, Upload};
pub(crate) use tunnel::{TunnelEnd, tunnel};
