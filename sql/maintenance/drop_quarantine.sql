-- Grain: one broken rule of a row in quarantine that was mended, or that nobody mended for long.
delete from quarantine
where quarantined_at < now() - cast(:keep as interval) or resolved_at < now() - cast(:keep as interval)
