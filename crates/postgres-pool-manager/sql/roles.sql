-- The roles of the system's own tables. Run by an administrator in the service's database; may be run again.
-- The owner makes and migrates the tables. The run-time role reads and writes their rows and nothing else.
-- Neither gets a password here.
DO $roles$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {owner_literal}) THEN
        CREATE ROLE {owner} LOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {runtime_literal}) THEN
        CREATE ROLE {runtime} LOGIN;
    END IF;
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I, %I', current_database(), {owner_literal}, {runtime_literal});
    IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = {schema_literal}) THEN
        CREATE SCHEMA {schema};
    END IF;
END
$roles$;
-- Lets the script be run by a role that is no superuser: only a member may hand a schema over.
GRANT {owner} TO CURRENT_USER;
ALTER SCHEMA {schema} OWNER TO {owner};
REVOKE ALL ON SCHEMA {schema} FROM PUBLIC;
GRANT USAGE ON SCHEMA {schema} TO {runtime};
-- What is there already, and what the owner will make.
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {runtime};
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {runtime};
ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema}
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {runtime};
ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT USAGE, SELECT ON SEQUENCES TO {runtime};
-- A standby tells its timeline, which read-your-writes needs, to members of this role only.
GRANT pg_read_all_stats TO {runtime};
