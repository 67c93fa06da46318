//! The scripts of L2. Values are compared by their bytes; what the bytes mean is `envelope`'s.

use redis_link::Script;

#[derive(Debug)]
pub(super) struct Scripts {
    /// With the markers' keys.
    pub(super) claim: Script,
    /// With the markers, and the script that reads them.
    pub(super) claim_only: Script,
    pub(super) marker: Script,
    pub(super) fill: Script,
    pub(super) renew: Script,
    pub(super) release: Script,
    pub(super) invalidate: Script,
    pub(super) clear: Script,
}

/// Sets `mr` and `ma`, the markers: reads them, and makes them where they are missing.
const MARKERS: &str = "\
local mr=redis.call('GET',KEYS[3]) if not mr then mr=ARGV[3] redis.call('SET',KEYS[3],mr) end \
local ma=redis.call('GET',KEYS[4]) if not ma then ma=ARGV[4] redis.call('SET',KEYS[4],ma) end ";

/// The rest of a claim; `t` is the server's time.
const CLAIM: &str = "\
local t=redis.call('TIME') \
if ARGV[2]=='2' then redis.call('DEL',KEYS[1],KEYS[2]) end \
local v=redis.call('GET',KEYS[1]) local stale=false \
if v and #v>=53 and string.sub(v,9,16)==mr and string.sub(v,17,24)==ma and string.sub(v,29,32)==ARGV[5] then \
  local now=t[1]*1000+math.floor(t[2]/1000) \
  if ARGV[2]=='0' and struct.unpack('>I8',string.sub(v,41,48))>now then return {1,v} end \
  stale=v end \
local left=redis.call('PTTL',KEYS[2]) if left>0 then return {2,left} end \
redis.call('SET',KEYS[2],ARGV[1],'PX',ARGV[6]) \
return {3,struct.pack('>I8',t[1]*1000000+t[2]),mr,ma,stale}";

impl Scripts {
    pub(super) fn new() -> Self {
        let claim = format!("{MARKERS}{CLAIM}");
        let claim_only = format!("local mr,ma=ARGV[3],ARGV[4] {CLAIM}");
        Self {
            claim: Script::fenced("cache_claim", &claim),
            claim_only: Script::fenced("cache_claim", &claim_only),
            marker: Script::fenced(
                "cache_marker",
                "local m=redis.call('GET',KEYS[1]) if not m then m=ARGV[1] redis.call('SET',KEYS[1],m) end return m",
            ),
            fill: Script::fenced(
                "cache_fill",
                "if redis.call('GET',KEYS[2])~=ARGV[1] then return 0 end \
                 redis.call('SET',KEYS[1],ARGV[3],'PX',ARGV[2]) redis.call('DEL',KEYS[2]) return 1",
            ),
            renew: Script::fenced(
                "cache_renew",
                "if redis.call('GET',KEYS[1])~=ARGV[1] then return 0 end return redis.call('PEXPIRE',KEYS[1],ARGV[2])",
            ),
            release: Script::fenced(
                "cache_release",
                "if redis.call('GET',KEYS[1])==ARGV[1] then return redis.call('DEL',KEYS[1]) end return 0",
            ),
            invalidate: Script::fenced("cache_invalidate", "return redis.call('DEL',unpack(KEYS))"),
            clear: Script::fenced("cache_clear", "redis.call('SET',KEYS[1],ARGV[1]) return 1"),
        }
    }
}
