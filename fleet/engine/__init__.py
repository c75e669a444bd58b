"""The leader: it turns plans into orders, and evicts units from machines that are gone."""
