-- Grain: one broken rule of a quarantined row, quarantined or resolved longer ago than :keep. Writes: quarantine.
delete from quarantine
where quarantined_at < now() - cast(:keep as interval) or resolved_at < now() - cast(:keep as interval)
