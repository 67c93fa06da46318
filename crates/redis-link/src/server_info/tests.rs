//! Reading `INFO`.

use super::*;

const INFO: &str = "# Server\r\nredis_version:7.0.15\r\nrun_id:abc\r\n\r\n# Persistence\r\nloading:0\r\n\
# Memory\r\nmaxmemory:1048576\r\nmaxmemory_policy:allkeys-lru\r\n\r\n# Replication\r\nrole:master\r\n\
master_replid:0123\r\nmaster_replid2:0000\r\n";

#[test]
fn what_matters_is_found() {
    let info = ServerInfo::parse(INFO).unwrap();
    assert_eq!((info.run_id.as_str(), info.role.as_str(), info.replid.as_str()), ("abc", "master", "0123"));
    assert!(!info.loading && !info.master_link_up);
    let capabilities = info.capabilities;
    assert_eq!(capabilities.version.to_string(), "7.0.15");
    assert!(capabilities.info_in_scripts && capabilities.sharded_pubsub && !capabilities.valkey);
    assert_eq!((capabilities.maxmemory_policy.as_str(), capabilities.maxmemory), ("allkeys-lru", 1 << 20));
    assert_eq!(replication(INFO), (Some("master"), Some("0123")));
}

#[test]
fn an_old_server_can_do_less() {
    let info = ServerInfo::parse(&INFO.replace("7.0.15", "6.2.0-rc1")).unwrap();
    assert!(info.capabilities.version >= Version::MINIMUM);
    assert!(!info.capabilities.info_in_scripts);
    let info = ServerInfo::parse(&INFO.replace("7.0.15", "6.0.16")).unwrap();
    assert!(info.capabilities.version < Version::MINIMUM);
}

#[test]
fn anything_else_is_none() {
    assert_eq!(ServerInfo::parse(""), None);
    assert_eq!(ServerInfo::parse("redis_version:x\r\n"), None);
}
