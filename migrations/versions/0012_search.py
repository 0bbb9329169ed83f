"""Words of prompts and states of walks are found by indexes; older code has no need of them."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

SHOWN = "public AND hidden_at IS NULL AND deleted_at IS NULL"


def upgrade() -> None:
    op.execute(
        r"""
        CREATE FUNCTION walk_grams(prompts jsonb) RETURNS tsvector
        LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE COST 1000 AS $$
        DECLARE
            prompt text;
            letters text[];
            grams text[] := '{}';
        BEGIN  -- three letters from each place of each prompt on, or as many as are left there
            FOR prompt IN SELECT lower(p COLLATE "pg_c_utf8") FROM jsonb_array_elements_text(prompts) AS p LOOP
                letters := string_to_array(prompt, NULL) || ARRAY['', ''];
                FOR i IN 1 .. cardinality(letters) - 2 LOOP
                    grams := grams || (letters[i] || letters[i + 1] || letters[i + 2]);
                END LOOP;
            END LOOP;
            RETURN array_to_tsvector(grams);
        END
        $$
        """
    )
    op.execute(
        r"""
        CREATE FUNCTION walk_query(word text) RETURNS tsquery
        LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
        DECLARE
            letters text[] := string_to_array(lower(word COLLATE "pg_c_utf8"), NULL);
            gram text;
            query text := '';
        BEGIN  -- each three letters of the word; one or two begin such three
            FOR i IN 1 .. greatest(cardinality(letters) - 2, 1) LOOP
                gram := array_to_string(letters[i : i + 2], '');
                query := query || ' & ''' || replace(replace(gram, '\', '\\'), '''', '''''') || '''';
            END LOOP;
            RETURN substr(query, 4) || CASE WHEN cardinality(letters) < 3 THEN ':*' ELSE '' END;
        END
        $$
        """
    )
    op.execute("CREATE INDEX walks_words ON walks USING gin (walk_grams(spec -> 'prompts'))")
    op.execute(f"CREATE INDEX walks_gallery_status ON walks (status, created_at DESC, id DESC) WHERE {SHOWN}")
    op.execute("CREATE INDEX walks_owner_status ON walks (owner, status, created_at DESC, id DESC)")


def downgrade() -> None:
    for index in ("walks_owner_status", "walks_gallery_status", "walks_words"):
        op.execute(f"DROP INDEX {index}")
    op.execute("DROP FUNCTION walk_query")
    op.execute("DROP FUNCTION walk_grams")
