//! `cargo xtask images`: images of the servers from Debian's packages, for machines that reach Debian's archive but no
//! registry of images. Needs root, for debootstrap.
//!
//! No Dockerfile: building one begins with pulling an image.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use local_stack::Images;

use crate::engine;

/// The release whose packages have the versions that [`BUILDS`] names.
const RELEASE: &str = "bookworm";
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What `cargo xtask images` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask images\n  cargo xtask images --force --mirror URL\n\n\
    `cargo xtask test --require-containers` builds them itself. Elsewhere name them by LOCAL_STACK_POSTGRES_IMAGE and \
    LOCAL_STACK_REDIS_IMAGE.")]
pub(crate) struct Args {
    /// Builds them anew where they are there already.
    #[arg(long)]
    force: bool,
    /// A mirror of Debian's archive; default: debootstrap's own.
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
}

struct Build {
    image: &'static str,
    packages: &'static [&'static str],
    /// Where Debian keeps programs that are not on its `PATH`.
    programs: Option<&'static str>,
}

const BUILDS: [Build; 2] = [
    Build {
        image: "database-services/postgres:15",
        packages: &["postgresql", "pgbouncer"],
        programs: Some("/usr/lib/postgresql/15/bin"),
    },
    Build { image: "database-services/redis:7", packages: &["redis-server"], programs: None },
];

/// Builds what is missing, or with `--force` all.
pub(crate) fn run(args: &Args) -> Result<u8> {
    let version = engine::require()?;
    build(args.force, args.mirror.as_deref())?;
    let names: Vec<&str> = BUILDS.iter().map(|build| build.image).collect();
    eprintln!("{} are there (Docker {version})", names.join(" and "));
    Ok(0)
}

/// The variables that make local-stack use images that are here: those that the environment names, the official ones,
/// or ours, which are built if need be. Where building is impossible nothing is set, and local-stack will try to pull.
pub(crate) fn variables() -> Result<Vec<(&'static str, &'static str)>> {
    let official = Images::default();
    let [postgres, redis] = BUILDS.each_ref().map(|build| build.image);
    let wanted: Vec<_> = [
        ("LOCAL_STACK_POSTGRES_IMAGE", official.postgres, postgres),
        ("LOCAL_STACK_REDIS_IMAGE", official.redis, redis),
        ("LOCAL_STACK_PGBOUNCER_IMAGE", official.pgbouncer, postgres),
    ]
    .into_iter()
    .filter(|(variable, official, _)| std::env::var_os(variable).is_none() && !engine::has_image(official))
    .map(|(variable, _, ours)| (variable, ours))
    .collect();
    if wanted.iter().all(|(_, ours)| engine::has_image(ours)) {
        return Ok(wanted);
    }
    if !is_root() {
        eprintln!("building images needs root: leaving it to Docker to pull the official ones");
        return Ok(Vec::new());
    }
    build(false, None)?;
    Ok(wanted)
}

fn build(force: bool, mirror: Option<&str>) -> Result<()> {
    let missing: Vec<&Build> =
        BUILDS.iter().filter(|build| force || !engine::has_image(build.image)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    ensure!(is_root(), "building images needs root (debootstrap unpacks a system): sudo cargo xtask images");
    let work = Work::new()?;
    work.debootstrap_is_there()?;
    let base = work.folder.join("base");
    work.say(&format!("the base system, Debian {RELEASE} (debootstrap)"));
    work.run(Command::new("debootstrap").args(["--variant=minbase", RELEASE]).arg(&base).args(mirror))?;
    for (index, build) in missing.into_iter().enumerate() {
        let root = work.folder.join(index.to_string());
        work.say(&format!("{}: {}", build.image, build.packages.join(", ")));
        work.run(Command::new("cp").arg("-a").arg(&base).arg(&root))?;
        // The packages may neither start a server nor make a cluster.
        write(&root.join("usr/sbin/policy-rc.d"), "#!/bin/sh\nexit 101\n", 0o755)?;
        write(
            &root.join("etc/postgresql-common/createcluster.conf"),
            "create_main_cluster = false\n",
            0o644,
        )?;
        work.run(
            Command::new("chroot")
                .arg(&root)
                .args(["apt-get", "--quiet=2", "install", "--yes", "--no-install-recommends"])
                .args(build.packages),
        )?;
        for unwanted in ["var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man"] {
            let _ = fs::remove_dir_all(root.join(unwanted));
        }
        work.say(&format!("{}: docker import", build.image));
        if engine::has_image(build.image) {
            // It would stay without a name. One that is in use stays anyhow.
            let _ = work.run(Command::new("docker").args(["image", "rm", build.image]));
        }
        work.import(&root, build)?;
    }
    work.say("done");
    Ok(())
}

/// A folder for unpacked systems and the log of what unpacked them.
struct Work {
    folder: PathBuf,
    log: File,
    started: Instant,
}

impl Work {
    fn new() -> Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("xtask-images-").tempdir().context("no temporary folder")?;
        let log = tempfile::tempfile().context("no temporary file")?;
        Ok(Self { folder: folder.keep(), log, started: Instant::now() })
    }

    fn say(&self, what: &str) {
        eprintln!("[{:5.1} s] {what}", self.started.elapsed().as_secs_f64());
    }

    fn debootstrap_is_there(&self) -> Result<()> {
        if is_installed("debootstrap") {
            return Ok(());
        }
        ensure!(is_installed("apt-get"), "debootstrap is missing, and apt-get too; install it");
        self.say("installing debootstrap (apt-get)");
        self.run(Command::new("apt-get").args(["--quiet=2", "update"]))?;
        let install = ["--quiet=2", "install", "--yes", "--no-install-recommends", "debootstrap"];
        self.run(Command::new("apt-get").args(install))
    }

    /// Runs it quietly; when it fails, the error has its last words.
    fn run(&self, command: &mut Command) -> Result<()> {
        let name = command.get_program().to_string_lossy().into_owned();
        let status = command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(self.log.try_clone()?)
            .stderr(self.log.try_clone()?)
            .status()
            .with_context(|| format!("cannot run {name}"))?;
        if status.success() { Ok(()) } else { bail!("{name}: {status}\n{}", self.tail()) }
    }

    fn import(&self, root: &Path, build: &Build) -> Result<()> {
        let path =
            build.programs.map_or(SYSTEM_PATH.to_owned(), |programs| format!("{programs}:{SYSTEM_PATH}"));
        let mut tar = Command::new("tar")
            .arg("-C")
            .arg(root)
            .args(["-c", "."])
            .stdout(Stdio::piped())
            .stderr(self.log.try_clone()?)
            .spawn()
            .context("cannot run tar")?;
        let packed = tar.stdout.take().context("tar without its output")?;
        let import = Command::new("docker")
            .args(["import", "--change", &format!("ENV PATH={path}"), "-", build.image])
            .stdin(packed)
            .stdout(self.log.try_clone()?)
            .stderr(self.log.try_clone()?)
            .status();
        let packed = tar.wait()?.success();
        let imported = import.context("cannot run docker")?.success();
        ensure!(packed && imported, "docker import of {}:\n{}", build.image, self.tail());
        Ok(())
    }

    fn tail(&self) -> String {
        let mut said = Vec::new();
        let _ = (&self.log).rewind().and_then(|()| (&self.log).read_to_end(&mut said));
        let said = String::from_utf8_lossy(&said).into_owned();
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // Never across a mount: debootstrap mounts the machine's own devices when it cannot make any.
        let mut remove = Command::new("rm");
        remove.args(["-rf", "--one-file-system"]).arg(&self.folder);
        let _ = remove.stderr(Stdio::null()).status();
    }
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    fs::create_dir_all(path.parent().unwrap_or(path)).with_context(failed)?;
    fs::write(path, text).with_context(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(failed)
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(program).is_file())
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}
