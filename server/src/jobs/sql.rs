//! What is asked of the table, in both databases' SQL (see `database::either`). A row is found by its key, and where it is to be
//! changed by its lease too.

pub(super) const SCHEMA: &[(&str, &str)] = &[
    (
        "galley_jobs",
        // What is large comes last: the rest is read without it.
        "CREATE TABLE IF NOT EXISTS galley_jobs (
  recipe TEXT NOT NULL, id TEXT NOT NULL, digest BYTEA NOT NULL, timeout_ms BIGINT NOT NULL, attempts BIGINT NOT NULL,
  owner TEXT NOT NULL, lease TEXT NOT NULL, lease_until BIGINT NOT NULL, created_at BIGINT NOT NULL, ended_at BIGINT,
  status BIGINT, error TEXT, form TEXT, body BYTEA, answer BYTEA,
  PRIMARY KEY (recipe, id))",
    ),
    (
        "galley_jobs_open",
        "CREATE INDEX IF NOT EXISTS galley_jobs_open ON galley_jobs (recipe, lease_until) WHERE status IS NULL",
    ),
];

/// What is there may have been made by somebody else.
pub(super) const CHECK: &str = "SELECT recipe, id, digest, timeout_ms, attempts, owner, lease, lease_until, created_at, ended_at,
    status, error, form, body, answer FROM galley_jobs LIMIT 0";
/// A failure is no result, and one that has expired is none any more: these begin anew.
pub(super) const BEGIN: &str = "INSERT INTO galley_jobs
        (recipe, id, digest, form, body, timeout_ms, attempts, owner, lease, lease_until, created_at)
    SELECT ?1, ?2, ?3, ?4, ?5, ?6, 1, ?7, ?8, {now} + ?9, {now}
    WHERE (SELECT count(*) FROM galley_jobs WHERE status IS NULL) < ?10
    ON CONFLICT (recipe, id) DO UPDATE SET digest = excluded.digest, form = excluded.form, body = excluded.body,
        timeout_ms = excluded.timeout_ms, attempts = 1, owner = excluded.owner, lease = excluded.lease,
        lease_until = excluded.lease_until, created_at = excluded.created_at,
        ended_at = NULL, status = NULL, error = NULL, answer = NULL
    WHERE galley_jobs.ended_at <= {now} - ?11
        OR (galley_jobs.ended_at IS NOT NULL AND galley_jobs.answer IS NULL AND galley_jobs.digest = excluded.digest)
    RETURNING lease";
pub(super) const DIGEST: &str = "SELECT digest FROM galley_jobs WHERE recipe = ?1 AND id = ?2";
pub(super) const FIND: &str = "SELECT status, error, answer FROM galley_jobs
    WHERE recipe = ?1 AND id = ?2 AND (ended_at IS NULL OR ended_at > {now} - ?3)";
/// Those that others are just taking are theirs.
pub(super) const TAKE: &str = "WITH due AS MATERIALIZED (
        SELECT recipe, id FROM galley_jobs
        WHERE recipe = ?1 AND status IS NULL AND lease_until <= {now}
        ORDER BY created_at LIMIT ?2 {skip locked})
    UPDATE galley_jobs SET owner = ?3, lease = ?4 || due.id, lease_until = {now} + ?5
    FROM due WHERE galley_jobs.recipe = due.recipe AND galley_jobs.id = due.id
    RETURNING galley_jobs.id, lease, attempts, length(body)";
pub(super) const START: &str = "UPDATE galley_jobs SET attempts = ?4
    WHERE recipe = ?1 AND id = ?2 AND lease = ?3 AND status IS NULL RETURNING timeout_ms, form, body";
pub(super) const RENEW: &str =
    "UPDATE galley_jobs SET lease_until = {now} + ?2 WHERE status IS NULL AND lease IN ({each})";
pub(super) const RELEASE: &str =
    "UPDATE galley_jobs SET lease = '', lease_until = {now} + ?4, attempts = ?5
    WHERE recipe = ?1 AND id = ?2 AND lease = ?3 AND status IS NULL RETURNING id";
/// It keeps its lease, so that asked again, for want of an answer, it says the same.
pub(super) const FINISH: &str =
    "UPDATE galley_jobs SET ended_at = {now}, status = ?4, error = ?5, answer = ?6, body = NULL
    WHERE recipe = ?1 AND id = ?2 AND lease = ?3 RETURNING id";
/// The newest result stays even if it is larger than all may be: somebody is about to read it. Looked at with its end, a job that
/// has begun anew in the meantime is another one; and two that sweep at once do not wait for each other crosswise.
pub(super) const SWEEP: &str = "DELETE FROM galley_jobs WHERE (recipe, id, ended_at) IN (
    SELECT recipe, id, ended_at FROM galley_jobs WHERE (recipe, id, ended_at) IN (
        SELECT recipe, id, ended_at FROM (
            SELECT recipe, id, ended_at, row_number() OVER newest AS place, sum(length(answer)) OVER newest AS bytes
            FROM galley_jobs WHERE ended_at IS NOT NULL
            WINDOW newest AS (ORDER BY ended_at DESC, recipe, id)) AS ended
        WHERE ended_at <= {now} - ?1 OR place > ?2 OR (place > 1 AND bytes > ?3)) {skip locked})";
