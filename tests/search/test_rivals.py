"""What is looked up of earlier candidates is what a search through all of them finds."""

import math

from hypothesis import given
from hypothesis import strategies as st

from search.rivals import Rivals

score = st.one_of(st.none(), st.integers(0, 8).map(float))
records = st.lists(st.tuples(score, st.integers(0, 8), st.booleans()), max_size=30)


@given(records, st.integers(1, 5), st.lists(st.integers(0, 30), max_size=4), st.integers(0, 9))
def test_as_a_search_through_all(drawn, top, steps, macs):
    candidates = [
        {'score': score, 'macs': macs}
        | ({'accuracy': 2 * score - macs} if reward and score is not None else {})
        for score, macs, reward in drawn
    ]
    rivals = Rivals(top)
    for count in sorted(min(step, len(candidates)) for step in steps):
        rivals.learn(candidates, count)
        known = [record for record in candidates[:count] if record['score'] is not None]
        best = sorted((record['score'] for record in known), reverse=True)[:top]
        assert rivals.top_score() == (best[-1] if len(best) == top else -math.inf)
        below = [record.get('accuracy', record['score']) for record in known if record['macs'] <= macs]
        assert rivals.accuracy(macs) == max(below, default=-math.inf)
