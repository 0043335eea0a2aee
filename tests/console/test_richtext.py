import pytest

from adaptrag.console.richtext import answer_html, marked


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "**<img src=x onerror=alert(1)>**",
        "`</code><script>alert(1)</script>`",
        "```\n</code></pre><script>alert(1)</script>\n```",
        "- <svg onload=alert(1)>\n1. <b>",
        "# <a href=javascript:alert(1)>x</a>",
        '[1]" onclick="alert(1)',
    ],
)
def test_nothing_of_a_text_becomes_markup(text):
    html = answer_html(text, 3, "source-x")
    for tag in ("<script", "<img", "<svg", "<b>", "<a href=javascript", '" onclick'):
        assert tag not in html
    assert "<script" not in marked(text, "alert script")


def test_paragraphs_lists_code_and_bold():
    html = answer_html("First\nline\n\n# Steps\n3. one\n4. two\n   goes on\n\n- a **bold** `x < y`\n\n```sh\na && b\n```\nend")
    assert html == (
        "<p>First<br>line</p><p><strong>Steps</strong></p>"
        '<ol><li value="3">one</li><li value="4">two goes on</li></ol>'
        "<ul><li>a <strong>bold</strong> <code>x &lt; y</code></li></ul>"
        "<pre><code>a &amp;&amp; b</code></pre><p>end</p>"
    )


def test_only_citations_of_sources_that_there_are_become_links():
    html = answer_html("See [1], [3] and `[1]`.", 2, "source-7")
    assert html.count("<a ") == 1
    assert 'href="#source-7-1"' in html
    assert "[3]" in html
    assert "<code>[1]</code>" in html


def test_words_of_the_question_are_marked_and_the_rest_is_escaped():
    html = marked("The keepers of <b>lighthouses</b> sleep.", "Who is the lighthouse keeper?")
    assert html == "The <mark>keepers</mark> of &lt;b&gt;<mark>lighthouses</mark>&lt;/b&gt; sleep."
    assert marked("a & b", "what is it?") == "a &amp; b"
