"""Operations console: pages about warehouse, registry and endpoints, and audited actions."""
