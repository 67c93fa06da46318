//! Parsing of the kernel's files, and plausibility of the real ones.

use super::*;

#[test]
fn kilobyte_lines_become_bytes() {
    assert_eq!(kilobytes("VmPeak: 9 kB\nVmRSS:\t   12 kB\n", "VmRSS:"), Some(12 * 1024));
    assert_eq!(kilobytes("VmRSS: many kB", "VmRSS:"), None);
}

#[test]
fn every_group_up_to_the_root_binds() {
    let dir = tempfile::tempdir().unwrap();
    let leaf = dir.path().join("a/b");
    std::fs::create_dir_all(&leaf).unwrap();
    std::fs::write(leaf.join("memory.max"), "max\n").unwrap();
    std::fs::write(dir.path().join("a/memory.max"), "4096\n").unwrap();
    let limits: Vec<u64> =
        cgroup_files(dir.path(), "0::/a/b\n").iter().filter_map(|file| read_limit(file)).collect();
    assert_eq!(limits, [4096]);
}

#[test]
fn the_first_version_of_control_groups_is_understood() {
    let files = cgroup_files(Path::new("/r"), "5:cpu,memory:/x\n3:pids:/x\n");
    assert_eq!(
        files,
        [PathBuf::from("/r/memory/x/memory.limit_in_bytes"), "/r/memory/memory.limit_in_bytes".into()]
    );
}

#[test]
fn this_process_uses_memory_and_less_than_it_may() {
    let used = resident_memory_bytes().unwrap();
    let limit = memory_limit_bytes().unwrap();
    assert!(used > 1_000_000 && used < limit, "{used} of {limit}");
    let percent = CpuMeter::new().percent();
    assert!((0.0..=100.0).contains(&percent));
}
