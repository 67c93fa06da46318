//! Secrets survive as they are, and are shown nowhere.

use proptest::prelude::*;
use secrecy::ExposeSecret;

use super::super::{LoadOptions, Settings};
use super::{env, file};

const ODD: &[&str] =
    &["00123", "true", "[a]", "\"x\"", "a#b", "{a=1}", " padded ", "1e5", "nan", "#", "a,b", "=", "0x10"];

#[test]
fn odd_passwords_survive() {
    for odd in ODD {
        let settings =
            env(&[("DATABASE_PASSWORD", odd), ("REDIS_HOST", "r"), ("REDIS_PASSWORD", odd)]).unwrap();
        assert_eq!(settings.database_password.as_ref().unwrap().expose_secret(), *odd);
        assert_eq!(settings.redis_password.as_ref().unwrap().expose_secret(), *odd);
        let secret = file(&format!("{odd}\n"));
        let settings = env(&[("DB_PASSWORD_FILE", secret.path().to_str().unwrap())]).unwrap();
        assert_eq!(settings.database_password.as_ref().unwrap().expose_secret(), *odd);
    }
}

proptest! {
    #[test]
    fn any_password_survives(password in "[^\u{0}]{1,40}") {
        let settings = env(&[("DATABASE_PASSWORD", &password)]).unwrap();
        let read = settings.database_password.as_ref().unwrap();
        prop_assert_eq!(read.expose_secret(), &password);
    }
}

#[test]
fn a_secret_and_its_file_must_agree() {
    let secret = file("one\r\n");
    let path = secret.path().to_str().unwrap();
    assert!(env(&[("REDIS_HOST", "r"), ("REDIS_PASSWORD", "one"), ("REDIS_PASSWORD_FILE", path)]).is_ok());
    let told = env(&[("REDIS_HOST", "r"), ("REDIS_PASSWORD", "two"), ("REDIS_PASSWORD_FILE", path)])
        .unwrap_err()
        .to_string();
    assert_eq!(
        told,
        "1 problem in the settings\n  REDIS_PASSWORD (environment variable REDIS_PASSWORD_FILE): REDIS_PASSWORD and \
         REDIS_PASSWORD_FILE disagree; keep one of REDIS_PASSWORD and REDIS_PASSWORD_FILE"
    );
    let empty = file("\n");
    let told = env(&[("DATABASE_PASSWORD_FILE", empty.path().to_str().unwrap())]).unwrap_err().to_string();
    assert!(told.contains("is empty"), "{told}");
}

#[test]
fn a_url_may_come_from_a_file() {
    let url = file("postgres://u:pw@db/app\n");
    let settings = env(&[("DATABASE_URL_FILE", url.path().to_str().unwrap())]).unwrap();
    assert_eq!(settings.database_host, "db");
    assert_eq!(settings.database_password.as_ref().unwrap().expose_secret(), "pw");
}

/// Plants secrets everywhere that takes one, and looks for them in everything that is shown.
#[test]
fn planted_secrets_are_shown_nowhere() {
    const PLANT: &str = "hunter2-planted";
    let good = [
        ("DATABASE_URL", format!("postgres://u:{PLANT}@db/app")),
        ("REDIS_URL", format!("redis://:{PLANT}@r")),
        ("REDIS_COORDINATION_URL", format!("redis://:{PLANT}@r2")),
        ("HTTP_ADMIN_TOKEN", PLANT.to_owned()),
        ("PROMETHEUS_URL", format!("https://u:{PLANT}@p:9090/x?y=1")),
        ("ALERTMANAGER_URL", format!("http://{PLANT}@a")),
        ("GRAFANA_URL", format!("http://u:sl/ash@{PLANT}@g/#x")),
    ];
    let options = LoadOptions::new().env(good.clone());
    let settings = Settings::load(&options).unwrap();
    let mut shown = vec![format!("{settings:?}"), format!("{:?}", *settings), format!("{options:?}")];
    shown.push(serde_json::to_string(&settings.show()).unwrap());
    shown.push(format!("{:?}", settings.show()));
    let links = ["PROMETHEUS_URL", "GRAFANA_URL"];
    let links = settings.show().into_iter().filter(|shown| links.contains(&shown.name));
    let links: Vec<_> = links.map(|s| s.value).collect();
    assert_eq!(links, ["https://***@p:9090/x?y=1", "http://***"]);
    let bad: [&[(&str, String)]; 8] = [
        &[("DATABASE_PASSWORD", format!("other{PLANT}"))],
        &[("REDIS_PASSWORD", format!("other{PLANT}"))],
        &[("DATABASE_SERVICES_DATABASE_URL", format!("mysql://u:{PLANT}@db/app"))],
        &[("DATABASE_SERVICES_REDIS_URL", format!("redis://:{PLANT}@r:port"))],
        &[("DATABASE_SERVICES_HTTP_ADMIN_TOKEN", format!("other{PLANT}"))],
        &[("DATABASE_SERVICES_ENVIRONMENT", "production".to_owned())],
        &[("DATABASE_SERVICES_GRAFANA_URL", format!("ftp://u:{PLANT}@g"))],
        &[("DATABASE_SERVICES_PROMETHEUS_URL", format!("http://v:{PLANT}@p"))],
    ];
    for pairs in bad {
        let errors =
            Settings::load(&LoadOptions::new().env(good.clone()).env(pairs.iter().cloned())).unwrap_err();
        shown.extend([errors.to_string(), format!("{errors:?}"), serde_json::to_string(&errors).unwrap()]);
    }
    for text in shown {
        assert!(!text.contains("hunter2"), "{text}");
    }
}
