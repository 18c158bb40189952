package edgekit.phone;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** JSON (RFC 8259), as far as headers need it: Map, List, String, Long, Double, Boolean and null. */
public final class Json {
    private static final int DEEPEST = 64;
    private final String text;
    private int place;
    private int depth;

    private Json(String text) {
        this.text = text;
    }

    /**
     * Read a value.
     *
     * @throws IllegalArgumentException it is no JSON
     */
    public static Object read(String text) {
        Json reader = new Json(text);
        Object found = reader.value();
        reader.space();
        if (reader.place != text.length()) throw reader.wrong();
        return found;
    }

    /** Write a value, without spaces. */
    public static String write(Object value) {
        StringBuilder out = new StringBuilder();
        write(value, out);
        return out.toString();
    }

    private static void write(Object value, StringBuilder out) {
        if (value instanceof Map) {
            char before = '{';
            for (Map.Entry<?, ?> entry : ((Map<?, ?>) value).entrySet()) {
                out.append(before);
                quote((String) entry.getKey(), out);
                out.append(':');
                write(entry.getValue(), out);
                before = ',';
            }
            out.append(before == '{' ? "{}" : "}");
        } else if (value instanceof List) {
            char before = '[';
            for (Object item : (List<?>) value) {
                out.append(before);
                write(item, out);
                before = ',';
            }
            out.append(before == '[' ? "[]" : "]");
        } else if (value instanceof String) {
            quote((String) value, out);
        } else if (value instanceof Double && !Double.isFinite((Double) value)) {
            throw new IllegalArgumentException(value + " is no JSON");
        } else {
            out.append(value);
        }
    }

    private static void quote(String value, StringBuilder out) {
        out.append('"');
        for (char letter : value.toCharArray()) {
            if (letter == '"' || letter == '\\') out.append('\\').append(letter);
            else if (letter == '\n') out.append("\\n");
            else if (letter == '\r') out.append("\\r");
            else if (letter == '\t') out.append("\\t");
            else if (letter < ' ') out.append(String.format("\\u%04x", (int) letter));
            else out.append(letter);
        }
        out.append('"');
    }

    private Object value() {
        space();
        if (++depth > DEEPEST) throw wrong();
        try {
            char first = peek();
            if (first == '{') return object();
            if (first == '[') return list();
            if (first == '"') return string();
            if (take("true")) return true;
            if (take("false")) return false;
            if (take("null")) return null;
            return number();
        } finally {
            depth--;
        }
    }

    private Map<String, Object> object() {
        Map<String, Object> found = new LinkedHashMap<>();
        place++;
        space();
        if (take("}")) return found;
        do {
            space();
            String name = string();
            space();
            if (!take(":")) throw wrong();
            found.put(name, value());
            space();
        } while (take(","));
        if (!take("}")) throw wrong();
        return found;
    }

    private List<Object> list() {
        List<Object> found = new ArrayList<>();
        place++;
        space();
        if (take("]")) return found;
        do {
            found.add(value());
            space();
        } while (take(","));
        if (!take("]")) throw wrong();
        return found;
    }

    private String string() {
        if (!take("\"")) throw wrong();
        StringBuilder found = new StringBuilder();
        while (true) {
            char letter = peek();
            place++;
            if (letter == '"') return found.toString();
            if (letter < ' ') throw wrong();
            if (letter != '\\') {
                found.append(letter);
                continue;
            }
            char escaped = peek();
            place++;
            int plain = "\"\\/bfnrt".indexOf(escaped);
            if (plain >= 0) {
                found.append("\"\\/\b\f\n\r\t".charAt(plain));
            } else if (escaped == 'u' && place + 4 <= text.length()) {
                found.append((char) Integer.parseInt(text.substring(place, place + 4), 16));
                place += 4;
            } else {
                throw wrong();
            }
        }
    }

    private Object number() {
        int start = place;
        while (place < text.length() && "+-0123456789.eE".indexOf(text.charAt(place)) >= 0) place++;
        String found = text.substring(start, place);
        if (!found.matches("-?(0|[1-9]\\d*)(\\.\\d+)?([eE][+-]?\\d+)?")) throw wrong();
        if (found.matches("-?\\d{1,18}")) return Long.parseLong(found);
        return Double.parseDouble(found);
    }

    private void space() {
        while (place < text.length() && " \t\r\n".indexOf(text.charAt(place)) >= 0) place++;
    }

    private char peek() {
        if (place >= text.length()) throw wrong();
        return text.charAt(place);
    }

    private boolean take(String word) {
        if (!text.startsWith(word, place)) return false;
        place += word.length();
        return true;
    }

    private IllegalArgumentException wrong() {
        return new IllegalArgumentException("no JSON at letter " + place);
    }
}
