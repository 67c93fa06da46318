CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer text NOT NULL,
    cents bigint NOT NULL CHECK (cents > 0),
    state text NOT NULL DEFAULT 'placed' CHECK (state IN ('placed', 'paid', 'archived'))
);
