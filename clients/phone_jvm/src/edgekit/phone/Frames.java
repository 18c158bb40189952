package edgekit.phone;

import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.CodingErrorAction;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** What gateway and phone say to each other: see docs/phone-protocol.md. */
public final class Frames {
    public static final int VERSION = 1;
    private static final byte[] MAGIC = {'E', 'K', 'P', 'H'};
    private static final int PREFIX = 12;
    private static final int ALIGNMENT = 8;
    private static final int MOST_HEADER_BYTES = 1 << 20;
    private static final int MOST_ARRAYS = 16;
    private static final int MOST_DIMENSIONS = 8;
    private static final Map<String, Integer> SIZES = Map.of("float32", 4, "int32", 4, "uint8", 1);

    private Frames() {}

    /** Something came that is no frame. */
    public static final class FrameException extends Exception {
        private static final long serialVersionUID = 1;

        public FrameException(String reason) {
            super(reason);
        }
    }

    /** An array: its dtype (float32, int32 or uint8), its shape, and its values as little-endian bytes. */
    public static final class Array {
        public final String dtype;
        public final int[] shape;
        public final byte[] bytes;

        public Array(String dtype, int[] shape, byte[] bytes) {
            this.dtype = dtype;
            this.shape = shape;
            this.bytes = bytes;
        }

        /** Wrap floats. */
        public static Array of(float[] values, int... shape) {
            ByteBuffer buffer = ByteBuffer.allocate(4 * values.length).order(ByteOrder.LITTLE_ENDIAN);
            for (float value : values) buffer.putFloat(value);
            return new Array("float32", shape, buffer.array());
        }

        /** Return float32 values. */
        public float[] floats() {
            float[] values = new float[bytes.length / 4];
            ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer().get(values);
            return values;
        }
    }

    /** One message: what it is about, JSON values by name, arrays by name. */
    public static final class Frame {
        public final String type;
        public final Map<String, Object> facts;
        public final Map<String, Array> arrays;

        public Frame(String type, Map<String, Object> facts, Map<String, Array> arrays) {
            this.type = type;
            this.facts = facts;
            this.arrays = arrays;
        }

        public Frame(String type, Map<String, Object> facts) {
            this(type, facts, Map.of());
        }
    }

    /** Return a frame as bytes. */
    public static byte[] pack(Frame frame) {
        Map<String, Object> header = new LinkedHashMap<>();
        header.put("type", frame.type);
        header.putAll(frame.facts);
        List<Object> listed = new ArrayList<>();
        for (Map.Entry<String, Array> entry : frame.arrays.entrySet()) {
            List<Object> shape = new ArrayList<>();
            for (int n : entry.getValue().shape) shape.add((long) n);
            listed.add(List.of(entry.getKey(), entry.getValue().dtype, shape));
        }
        header.put("arrays", listed);
        byte[] text = Json.write(header).getBytes(StandardCharsets.UTF_8);
        ByteArrayOutputStream content = new ByteArrayOutputStream();
        content.writeBytes(MAGIC);
        content.writeBytes(ByteBuffer.allocate(8).order(ByteOrder.LITTLE_ENDIAN).put((byte) VERSION)
            .put(new byte[3]).putInt(text.length).array());
        content.writeBytes(text);
        for (Array array : frame.arrays.values()) {
            content.writeBytes(new byte[Math.floorMod(-content.size(), ALIGNMENT)]);
            content.writeBytes(array.bytes);
        }
        return content.toByteArray();
    }

    /** Read a frame, from whoever sent it. */
    public static Frame unpack(byte[] content) throws FrameException {
        if (content.length < PREFIX) throw new FrameException("a frame has at least twelve bytes");
        ByteBuffer buffer = ByteBuffer.wrap(content).order(ByteOrder.LITTLE_ENDIAN);
        boolean zeros = content[5] == 0 && content[6] == 0 && content[7] == 0;
        if (!Arrays.equals(MAGIC, Arrays.copyOf(content, 4)) || !zeros) {
            throw new FrameException("this is not a frame of edgekit's");
        }
        if (content[4] != VERSION) throw new FrameException("this frame is of version " + content[4]);
        long size = buffer.getInt(8) & 0xffffffffL;
        if (size > MOST_HEADER_BYTES || PREFIX + size > content.length) throw new FrameException("the header is too long");
        Map<String, Object> header = header(content, (int) size);
        Object type = header.remove("type");
        Object listed = header.remove("arrays");
        if (!(type instanceof String) || !(listed instanceof List) || ((List<?>) listed).size() > MOST_ARRAYS) {
            throw new FrameException("the header lacks its type or its arrays");
        }
        Map<String, Array> arrays = new LinkedHashMap<>();
        int place = PREFIX + (int) size;
        for (Object entry : (List<?>) listed) {
            List<?> described = entry instanceof List ? (List<?>) entry : List.of();
            if (described.size() != 3 || !(described.get(0) instanceof String) || !(described.get(2) instanceof List)) {
                throw new FrameException("an array is described by name, dtype and shape");
            }
            String name = (String) described.get(0);
            Object dtype = described.get(1);
            if (!(dtype instanceof String) || !SIZES.containsKey(dtype) || name.length() > 64) {
                throw new FrameException("an array's dtype or name does not fit");
            }
            if (arrays.containsKey(name)) throw new FrameException("a frame names array " + name + " twice");
            int[] shape = shape((List<?>) described.get(2), name);
            long bytes = SIZES.get(dtype);
            for (int n : shape) {
                bytes *= n;
                if (bytes > content.length) throw new FrameException("a frame ends within its array " + name);
            }
            place += Math.floorMod(-place, ALIGNMENT);
            if (place + bytes > content.length) throw new FrameException("a frame ends within its array " + name);
            Array array = new Array((String) dtype, shape, Arrays.copyOfRange(content, place, place + (int) bytes));
            if (array.dtype.equals("float32")) {
                for (float value : array.floats()) {
                    if (!Float.isFinite(value)) throw new FrameException("array " + name + " is not finite");
                }
            }
            arrays.put(name, array);
            place += (int) bytes;
        }
        if (place != content.length) throw new FrameException("a frame has bytes too many");
        return new Frame((String) type, header, arrays);
    }

    private static Map<String, Object> header(byte[] content, int size) throws FrameException {
        try {
            String text = StandardCharsets.UTF_8.newDecoder().onMalformedInput(CodingErrorAction.REPORT)
                .decode(ByteBuffer.wrap(content, PREFIX, size)).toString();
            Object found = Json.read(text);
            if (!(found instanceof Map)) throw new FrameException("the header is no object");
            @SuppressWarnings("unchecked")
            Map<String, Object> header = (Map<String, Object>) found;
            return header;
        } catch (CharacterCodingException | IllegalArgumentException error) {
            throw new FrameException("the header cannot be read: " + error.getMessage());
        }
    }

    private static int[] shape(List<?> found, String name) throws FrameException {
        if (found.size() > MOST_DIMENSIONS) throw new FrameException("array " + name + " has an impossible shape");
        int[] shape = new int[found.size()];
        for (int i = 0; i < shape.length; i++) {
            Object n = found.get(i);
            if (!(n instanceof Long) || (Long) n < 0 || (Long) n > Integer.MAX_VALUE) {
                throw new FrameException("array " + name + " has an impossible shape");
            }
            shape[i] = (int) (long) (Long) n;
        }
        return shape;
    }
}
