"""Random JSON schemas that some JSON meets, from the parts that people write by hand."""

NAMES = ("name", "age", "city", "tags", "ok", "π", "a b", 'quo"ted', "$x")
WORDS = ("red", "green", "two words", "", "ü", 'a "quote"', "\n")
PATTERNS = ("^[a-z]{1,6}$", "^\\d{2}-\\d{2}$", "^(yes|no)$", "^[A-F0-9]+$")
FORMATS = ("date", "time", "date-time", "uuid", "ipv4")


def scalar(rng):
    low = rng.randint(-20, 20)
    options = [
        {"type": "boolean"},
        {"type": "null"},
        {"enum": rng.sample([*WORDS, 0, 7, -3.5, True, None], rng.randint(1, 4))},
        {"const": rng.choice([*WORDS, 12, False, {"k": [1, 2]}])},
        {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 300)},
        {"type": "integer", "exclusiveMinimum": low, "exclusiveMaximum": low + 9},
        {"type": "number", "minimum": low, "maximum": low + 2.5},
        {"type": "string", "minLength": rng.randint(0, 3), "maxLength": rng.randint(3, 9)},
        {"type": "string", "pattern": rng.choice(PATTERNS)},
        {"type": "string", "format": rng.choice(FORMATS)},
        {"type": ["string", "null"], "maxLength": 5},
    ]
    return rng.choice(options)


def array(rng, depth):
    least = rng.randint(0, 2)
    if rng.random() < 0.3:
        items = [schema(rng, depth - 1) for _ in range(rng.randint(1, 3))]
        count = len(items)
        return {"type": "array", "prefixItems": items, "minItems": count, "maxItems": count}
    return {
        "type": "array",
        "items": schema(rng, depth - 1),
        "minItems": least,
        "maxItems": least + rng.randint(0, 2),
    }


def record(rng, depth):
    names = rng.sample(NAMES, rng.randint(0, 4))
    properties = {name: schema(rng, depth - 1) for name in names}
    required = [name for name in names if rng.random() < 0.6]
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def choice(rng, depth):
    return {"anyOf": [schema(rng, depth - 1) for _ in range(rng.randint(2, 3))]}


def tree(rng, depth):
    """A schema that refers to itself."""
    children = {"type": "array", "items": {"$ref": "#"}, "maxItems": 1}
    properties = {"value": scalar(rng), "children": children}
    return {
        "type": "object",
        "properties": properties,
        "required": ["value"],
        "additionalProperties": False,
    }


def schema(rng, depth):
    """A schema of at most `depth` levels below its own."""
    if depth <= 0 or rng.random() < 0.35:
        return scalar(rng)
    return rng.choice([array, record, record, choice])(rng, depth)


def whole(rng):
    """A schema for an answer."""
    if rng.random() < 0.1:
        return tree(rng, 1)
    return record(rng, 3) if rng.random() < 0.8 else schema(rng, 3)
