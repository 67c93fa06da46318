//! Changing the passwords of Redis' users while the servers run. Who there is at the start is said by the ACL file
//! (`start`), which this keeps up to date.

use super::Redis;
use super::start::OUR_USER;
use crate::error::Error;

impl Redis {
    /// Gives a user these passwords, and no other one, on every server; several while one takes the place of another.
    /// Blocks.
    ///
    /// It holds from now on, over restarts too. Who is logged in stays so. `url()` of a [`Server`](crate::Server) goes
    /// on naming the password of the start; see [`url_as`](crate::Server::url_as). Sentinels have no users of ours.
    ///
    /// [`Error::NoSuchPart`] if there is no such user, [`Error::NotRunning`] at the first server that does not run,
    /// which then has the old ones, as have those after it.
    pub fn set_password_blocking(&self, user: &str, passwords: &[&str]) -> Result<(), Error> {
        if user == OUR_USER {
            let reason = "this user is ours: servers and Sentinels know each other by it; take another";
            return Err(Error::Setting { name: OUR_USER.into(), reason: reason.into() });
        }
        for server in self.servers() {
            if !server.is_ours() {
                let server = server.name().to_owned();
                return Err(Error::NotOurs { operation: "set_password", server });
            }
            // SETUSER would make one that is not there.
            if server.redis_command_blocking(&["ACL", "GETUSER", user])?.items().is_empty() {
                return Err(Error::NoSuchPart { part: format!("user {user} on {}", server.name()) });
            }
            let rules: Vec<String> = passwords.iter().map(|password| format!(">{password}")).collect();
            let words = ["ACL", "SETUSER", user, "resetpass"].into_iter();
            let words: Vec<&str> = words.chain(rules.iter().map(String::as_str)).collect();
            let set = server.redis_command_blocking(&words);
            set.map_err(|error| error.without_request("ACL SETUSER …"))?;
            match server.redis_command_blocking(&["ACL", "SAVE"]) {
                // There is no file: the users are among the settings.
                Err(Error::Refused { message, .. }) if message.contains("not configured") => {
                    server.redis_command_blocking(&["CONFIG", "REWRITE"])?
                }
                other => other?,
            };
        }
        Ok(())
    }
}

#[cfg(feature = "async")]
impl Redis {
    /// [`set_password_blocking`](Self::set_password_blocking) off the runtime's threads. Dropped, it still runs to its
    /// end.
    pub async fn set_password(&self, user: &str, passwords: &[&str]) -> Result<(), Error> {
        let (redis, user) = (self.clone(), user.to_owned());
        let passwords: Vec<String> = passwords.iter().map(|password| (*password).to_owned()).collect();
        crate::unblock("set_password", move || {
            redis.set_password_blocking(&user, &passwords.iter().map(String::as_str).collect::<Vec<_>>())
        })
        .await
    }
}
