-- The roles of the system's own tables. Run by an administrator in the service's database; may be run again.
-- The owner makes and migrates the tables. The run-time role reads and writes their rows and nothing else.
-- Neither gets a password here.
DO $roles$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'database_services_owner') THEN
        CREATE ROLE "database_services_owner" LOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'database_services_runtime') THEN
        CREATE ROLE "database_services_runtime" LOGIN;
    END IF;
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I, %I', current_database(), 'database_services_owner', 'database_services_runtime');
    IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'database_services') THEN
        CREATE SCHEMA "database_services";
    END IF;
END
$roles$;
-- Lets the script be run by a role that is no superuser: only a member may hand a schema over.
GRANT "database_services_owner" TO CURRENT_USER;
ALTER SCHEMA "database_services" OWNER TO "database_services_owner";
REVOKE ALL ON SCHEMA "database_services" FROM PUBLIC;
GRANT USAGE ON SCHEMA "database_services" TO "database_services_runtime";
-- What is there already, and what the owner will make.
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "database_services" TO "database_services_runtime";
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA "database_services" TO "database_services_runtime";
ALTER DEFAULT PRIVILEGES FOR ROLE "database_services_owner" IN SCHEMA "database_services"
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO "database_services_runtime";
ALTER DEFAULT PRIVILEGES FOR ROLE "database_services_owner" IN SCHEMA "database_services" GRANT USAGE, SELECT ON SEQUENCES TO "database_services_runtime";
-- A standby tells its timeline, which read-your-writes needs, to members of this role only.
GRANT pg_read_all_stats TO "database_services_runtime";
