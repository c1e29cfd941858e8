-- Why a store is open or closed at an instant (null: now). Raises ST404.
select explain_hours(:store_id, coalesce(cast(:at as timestamptz), shoptalk_now()))
