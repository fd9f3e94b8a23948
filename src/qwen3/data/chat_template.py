"""The chat format as a Jinja template, for tokenizer_config.json and so for every server.

`chat_render` is the same format in Python; a test holds both against renderings by the official
template. Strings are joined with `+`, which fails on a system prompt that is no string, as it
should.
"""

import hashlib

# sha256 of the official template, the later of its two published texts.
OFFICIAL = "a55ee1b1660128b7098723e0abcd92caa0788061051c62d51cbe87d9cf1974d8"

TOOLS_INTRO = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
TOOLS_OUTRO = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)
EMPTY_THINK = "<think>\n\n</think>\n\n"

_JINJA = r"""
{#- Turn 0: the tools, with the caller's system prompt in front of them. -#}
{%- set lead = messages[0] -%}
{%- set has_system = lead.role == 'system' -%}
{%- if tools -%}
  {{- '<|im_start|>system\n' + (lead.content + '\n\n' if has_system else '') + @INTRO@ -}}
  {%- for tool in tools -%}
    {{- '\n' -}}{{- tool | tojson -}}
  {%- endfor -%}
  {{- @OUTRO@ + '<|im_end|>\n' -}}
{%- elif has_system -%}
  {{- '<|im_start|>system\n' + lead.content + '<|im_end|>\n' -}}
{%- endif -%}

{#- Thinking is shown only after the last question a person asked. -#}
{%- set last = namespace(query=messages | length - 1) -%}
{%- for message in messages -%}
  {%- set text = message.content -%}
  {%- if message.role == 'user' and text is string -%}
    {%- if not text.startswith('<tool_response>') or not text.endswith('</tool_response>') -%}
      {%- set last.query = loop.index0 -%}
    {%- endif -%}
  {%- endif -%}
{%- endfor -%}

{%- for message in messages -%}
  {%- set text = message.content if message.content is string else '' -%}
  {%- if message.role == 'user' or (message.role == 'system' and not loop.first) -%}
    {{- '<|im_start|>' + message.role + '\n' + text + '<|im_end|>\n' -}}
  {%- elif message.role == 'tool' -%}
    {%- if loop.first or loop.previtem.role != 'tool' -%}
      {{- '<|im_start|>user' -}}
    {%- endif -%}
    {{- '\n<tool_response>\n' + text + '\n</tool_response>' -}}
    {%- if loop.last or loop.nextitem.role != 'tool' -%}
      {{- '<|im_end|>\n' -}}
    {%- endif -%}
  {%- elif message.role == 'assistant' -%}
    {%- set thought = '' -%}
    {%- if message.reasoning_content is string -%}
      {%- set thought = message.reasoning_content -%}
    {%- elif '</think>' in text -%}
      {%- set thought = (text.split('</think>') | first).rstrip('\n') -%}
      {%- set thought = (thought.split('<think>') | last).lstrip('\n') -%}
      {%- set text = (text.split('</think>') | last).lstrip('\n') -%}
    {%- endif -%}
    {{- '<|im_start|>assistant\n' -}}
    {%- if loop.index0 > last.query and (loop.last or thought) -%}
      {{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + text.lstrip('\n') -}}
    {%- else -%}
      {{- text -}}
    {%- endif -%}
    {%- for entry in message.tool_calls or [] -%}
      {%- set call = entry.function or entry -%}
      {%- if text or not loop.first -%}
        {{- '\n' -}}
      {%- endif -%}
      {{- '<tool_call>\n{"name": "' -}}{{- call.name -}}{{- '", "arguments": ' -}}
      {%- if call.arguments is string -%}
        {{- call.arguments -}}
      {%- else -%}
        {{- call.arguments | tojson -}}
      {%- endif -%}
      {{- '}\n</tool_call>' -}}
    {%- endfor -%}
    {{- '<|im_end|>\n' -}}
  {%- endif -%}
{%- endfor -%}

{%- if add_generation_prompt -%}
  {{- '<|im_start|>assistant\n' -}}
  {%- if enable_thinking is defined and enable_thinking is false -%}
    {{- @EMPTY@ -}}
  {%- endif -%}
{%- endif -%}
"""


def _quoted(text: str) -> str:
    assert "'" not in text and "\\" not in text, text
    return "'" + text.replace("\n", r"\n") + "'"


CHAT_TEMPLATE = (
    _JINJA.replace("@INTRO@", _quoted(TOOLS_INTRO))
    .replace("@OUTRO@", _quoted(TOOLS_OUTRO))
    .replace("@EMPTY@", _quoted(EMPTY_THINK))
    .strip()
)


def is_built_in(template: object) -> bool:
    """Whether a stored template is the one above, or the official text that it renders alike."""
    if not isinstance(template, str):
        return False
    text = template.replace("\r\n", "\n")
    digests = {hashlib.sha256(form.encode()).hexdigest() for form in (text, text.strip())}
    return text.strip() == CHAT_TEMPLATE or OFFICIAL in digests
