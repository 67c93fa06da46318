//! The scripts. Each begins with what they share.

use redis_link::Script;

#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) append: Script,
    pub(super) open: Script,
    pub(super) take: Script,
    pub(super) settle: Script,
    pub(super) told: Script,
    pub(super) tend: Script,
    pub(super) info: Script,
    pub(super) change: Script,
    pub(super) resolve: Script,
}

macro_rules! lua {
    ($file:literal) => {
        concat!(include_str!("common.lua"), include_str!($file))
    };
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            append: Script::fenced("durable append", lua!("append.lua")),
            open: Script::fenced("durable open", lua!("open.lua")),
            take: Script::fenced("durable take", lua!("take.lua")),
            settle: Script::fenced("durable settle", lua!("settle.lua")),
            told: Script::fenced("durable told", lua!("told.lua")),
            tend: Script::fenced("durable tend", lua!("tend.lua")),
            info: Script::new("durable info", lua!("info.lua")),
            change: Script::fenced("durable change", lua!("change.lua")),
            resolve: Script::fenced("durable resolve", lua!("resolve.lua")),
        }
    }
}
