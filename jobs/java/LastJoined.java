package liveprofile;

import java.util.Arrays;
import org.apache.flink.table.annotation.DataTypeHint;
import org.apache.flink.table.annotation.FunctionHint;
import org.apache.flink.table.data.StringData;
import org.apache.flink.table.functions.AggregateFunction;

/**
 * LAST_JOINED(text, separator, k): the last k texts in order of arrival, joined. NULL texts do not
 * count. A text may contain the separator, so the lengths of the texts are kept beside them.
 */
@FunctionHint(
        input = {
            @DataTypeHint(value = "STRING", bridgedTo = StringData.class),
            @DataTypeHint(value = "STRING", bridgedTo = StringData.class),
            @DataTypeHint("INT")
        },
        accumulator = @DataTypeHint(bridgedTo = LastJoined.Kept.class),
        output = @DataTypeHint(value = "STRING", bridgedTo = StringData.class))
public class LastJoined extends AggregateFunction<StringData, LastJoined.Kept> {
    /** Arrays are never changed: a state backend may hold the object itself. */
    public static class Kept {
        @DataTypeHint(value = "STRING", bridgedTo = StringData.class)
        public StringData joined;

        @DataTypeHint("ARRAY<INT NOT NULL>")
        public int[] bytes = {};
    }

    @Override
    public Kept createAccumulator() {
        return new Kept();
    }

    public void accumulate(Kept kept, StringData text, StringData separator, Integer k) {
        if (text == null) {
            return;
        }
        byte[] added = text.toBytes();
        int n = kept.bytes.length;
        if (n == 0) {
            kept.joined = StringData.fromBytes(added);
            kept.bytes = new int[] {added.length};
            return;
        }
        byte[] between = separator.toBytes();
        byte[] old = kept.joined.toBytes();
        int first = Math.max(n + 1 - k, 0); // texts that are dropped
        int from = 0;
        for (int i = 0; i < first; i++) {
            from += kept.bytes[i] + between.length;
        }
        int rest = Math.max(old.length - from, 0); // k = 1: nothing of the old texts is left
        int gap = first < n ? between.length : 0;
        byte[] joined = new byte[rest + gap + added.length];
        System.arraycopy(old, old.length - rest, joined, 0, rest);
        System.arraycopy(between, 0, joined, rest, gap);
        System.arraycopy(added, 0, joined, rest + gap, added.length);
        int[] bytes = Arrays.copyOfRange(kept.bytes, first, n + 1);
        bytes[n - first] = added.length;
        kept.joined = StringData.fromBytes(joined);
        kept.bytes = bytes;
    }

    @Override
    public StringData getValue(Kept kept) {
        return kept.joined;
    }
}
